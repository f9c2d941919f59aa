package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// words are what a shell may complete an argument or a flag to.
type words = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// maxWords bounds what a shell is given: nobody reads more, and it takes the shell long.
const maxWords = 1000

// completes offers what list finds in the repository, but for what the command line has already. A home that cannot be read
// completes to nothing.
func (c *cli) completes(list func(m release.Manifest) []string) words {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		view, err := c.home().View(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all := slices.DeleteFunc(list(view.Manifest), func(word string) bool {
			return !strings.HasPrefix(word, begun) || slices.Contains(args, word)
		})
		return all[:min(len(all), maxWords)], cobra.ShellCompDirectiveNoFileComp
	}
}

// members completes to the names of members.
func (c *cli) members() words {
	return c.completes(func(m release.Manifest) (names []string) {
		for _, member := range m.Members {
			names = append(names, member.Name)
		}
		return names
	})
}

// member completes the only argument.
func (c *cli) member() words {
	members := c.members()
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return members(cmd, args, begun)
	}
}

// zones completes to the zones of the releases, without the final dot.
func (c *cli) zones() words {
	return c.completes(func(m release.Manifest) (names []string) {
		for r := range m.Releases() {
			for z := range r.All() {
				names = append(names, strings.TrimSuffix(z.Origin, "."))
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	})
}

// completeFlag has a flag completed, which there must be.
func completeFlag(cmd *cobra.Command, flag string, w words) {
	if err := cmd.RegisterFlagCompletionFunc(flag, w); err != nil {
		panic(err)
	}
}
