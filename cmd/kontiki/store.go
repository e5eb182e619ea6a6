package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"kontiki/node"
)

func storeCommand() *cobra.Command {
	var dir, output string
	var q node.StoreQuery
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Read and write the replicated store itself, beneath the API",
		Long: `Read and write the replicated store itself, beneath the API. What the API holds
stands below /registry/, encoded as upstream encodes it; writing there goes past
all its checks.`,
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	get := &cobra.Command{
		Use: "get KEY", Short: "Print a key's value", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Key = args[0]
			var found node.StoreAnswer
			if err := adminCall(cmd.Context(), dir, http.MethodPost, "/store/get", q, &found); err != nil {
				return err
			}
			if output != "" {
				return printEncoded(cmd.OutOrStdout(), found.KVs[0], output)
			}
			_, err := cmd.OutOrStdout().Write(found.KVs[0].Value)
			return err
		},
	}
	put := &cobra.Command{
		Use: "put KEY VALUE|-", Short: "Set a key; - reads the value from standard input", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Key, q.Value = args[0], []byte(args[1])
			if args[1] == "-" {
				var err error
				if q.Value, err = io.ReadAll(cmd.InOrStdin()); err != nil {
					return err
				}
			}
			return storeChange(cmd, dir, "put", q)
		},
	}
	del := &cobra.Command{
		Use: "delete KEY", Short: "Delete a key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Key = args[0]
			return storeChange(cmd, dir, "delete", q)
		},
	}
	list := &cobra.Command{
		Use: "list [PREFIX]", Short: "List keys", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Prefix = oneOrNone(args)
			var found node.StoreAnswer
			if err := adminCall(cmd.Context(), dir, http.MethodPost, "/store/list", q, &found); err != nil {
				return err
			}
			if output != "" {
				return printEncoded(cmd.OutOrStdout(), found, output)
			}
			for _, kv := range found.KVs {
				fmt.Fprintln(cmd.OutOrStdout(), kv.Key)
			}
			return nil
		},
	}
	watch := &cobra.Command{
		Use: "watch [PREFIX]", Short: "Print changes as they come, one a line", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Prefix = oneOrNone(args)
			return storeWatch(cmd, dir, q, output)
		},
	}
	for _, c := range []*cobra.Command{get, list, watch} {
		c.Flags().StringVarP(&output, "output", "o", "", "json, yaml, or empty for people; values are base64")
	}
	for _, c := range []*cobra.Command{get, list} {
		c.Flags().BoolVar(&q.Local, "local", false, "what this node's replica knows, without asking a quorum")
	}
	put.Flags().DurationVar(&q.TTL, "ttl", 0, "how long the key lives, in whole seconds; for ever by default")
	list.Flags().IntVar(&q.Limit, "limit", 0, "most keys to list")
	watch.Flags().Uint64Var(&q.After, "after", 0, "revision after which to begin; now by default")
	cmd.AddCommand(get, put, del, list, watch)
	return cmd
}

func oneOrNone(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func storeChange(cmd *cobra.Command, dir, action string, q node.StoreQuery) error {
	var done node.StoreAnswer
	if err := adminCall(cmd.Context(), dir, http.MethodPost, "/store/"+action, q, &done); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "revision", done.Revision)
	return nil
}

func storeWatch(cmd *cobra.Command, dir string, q node.StoreQuery, output string) error {
	body, err := adminStream(cmd.Context(), dir, http.MethodPost, "/store/watch", q)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var change struct {
			node.StoreKV
			node.AdminError
		}
		if err := dec.Decode(&change); err != nil {
			if cmd.Context().Err() != nil {
				return nil // interrupted, as watches are
			}
			return fmt.Errorf("the node ended the watch: %w", err)
		}
		if change.Error != "" {
			return errors.New(change.Error)
		}
		switch {
		case output == "json":
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(change.StoreKV)
		case output != "":
			err = printEncoded(cmd.OutOrStdout(), change.StoreKV, output)
		case change.Deleted:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d\tdelete\t%s\n", change.ModRevision, change.Key)
		default:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d\tput\t%s\t%q\n", change.ModRevision, change.Key, change.Value)
		}
		if err != nil {
			return err
		}
	}
}
