package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCmd writes the manual from the definitions of the commands, for packaging.
func manCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "man FOLDER", Short: "Write the manual pages", Hidden: true, Args: exact(1, "one folder"), RunE: func(_ *cobra.Command, args []string) error {
		if err := doc.GenManTree(root, &doc.GenManHeader{Title: "NPCTL", Section: "1", Source: "np", Manual: "npctl"}, args[0]); err != nil {
			return fmt.Errorf("write manual pages: %w", err)
		}
		return nil
	}}
}
