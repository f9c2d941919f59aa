// Package usage says what is wrong with a command line, in the words of the command's own usage. The commands of all programs
// take their arguments with it. It imports nothing of the project.
package usage

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// One takes one argument.
func One(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return wants(cmd, args)
}

// Some takes one argument or more.
func Some(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return nil
	}
	return wants(cmd, args)
}

// wants says what the command takes, and what it was given.
func wants(cmd *cobra.Command, args []string) error {
	_, takes, _ := strings.Cut(cmd.Use, " ")
	given := "nothing was given"
	if len(args) > 0 {
		given = "given were: " + strings.Join(args, " ")
	}
	return fmt.Errorf("%s wants %s; %s", cmd.Name(), takes, given)
}

// Commands takes no argument: what follows a program's name is one of its commands. One that is nearly right is told.
func Commands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%w: is it %s?", err, strings.Join(near, ", or "))
	}
	return err
}
