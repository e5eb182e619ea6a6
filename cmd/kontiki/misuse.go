package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

// tellMisuse has every command say how it is meant when it is used otherwise. One that is there for
// its own commands alone refuses what is none of them, where cobra would print its help and call
// that success.
func tellMisuse(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	for _, cmd := range root.Commands() {
		tellArgs(cmd)
	}
}

func tellArgs(cmd *cobra.Command) {
	if !cmd.Runnable() {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			switch {
			case err == nil:
				return nil
			case cmd.HasSubCommands():
				return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
			}
			return fmt.Errorf("%w; it is used as: %s", err, cmd.UseLine())
		}
	}
	for _, below := range cmd.Commands() {
		tellArgs(below)
	}
}

// asRoot adds to what a user may not do how it may be done.
func asRoot(err error) error {
	if os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; try as root", err)
	}
	return err
}
