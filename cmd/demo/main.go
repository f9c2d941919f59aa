//go:build linux

package main

import "os"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "router" {
		if err := runRouter(os.Stdin, os.Stdout, os.Stderr); err != nil {
			panic(err)
		}
	}
}
