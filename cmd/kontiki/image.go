package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"kontiki/runtime/image"
)

func imageCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "image",
		Short: "The images on this node",
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", dataDir(), "data directory of the node")
	open := func() (*image.Store, error) {
		return image.Open(filepath.Join(dir, "images"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	cmd.AddCommand(imageLoad(open), imagePull(&dir, open), imageSave(open), imageList(open), imageRemove(open), imageImport())
	return cmd
}

type openImages func() (*image.Store, error)

// loadAndUnpack unpacks here, where the user waits for it, not when the first pod
// starts. An image that cannot be unpacked is not kept.
func loadAndUnpack(ctx context.Context, images *image.Store, path, name string) ([]image.Image, error) {
	loaded, err := images.LoadFile(ctx, path, name)
	for _, img := range loaded {
		if uerr := images.Unpack(ctx, img); uerr != nil {
			err = errors.Join(err, uerr, images.Remove(context.WithoutCancel(ctx), img.Ref))
		}
	}
	return loaded, err
}

func imageLoad(open openImages) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "load FILE...",
		Short: "Load images from OCI or docker archives",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			for _, path := range args {
				loaded, err := loadAndUnpack(cmd.Context(), images, path, name)
				if err != nil {
					return err
				}
				for _, img := range loaded {
					fmt.Fprintf(cmd.OutOrStdout(), "loaded %s (%s)\n", img.Ref, img.Digest)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name for an archive that names no image")
	return cmd
}

// pullTold is how often one hears of a pull that takes long.
const pullTold = 2 * time.Second

func imagePull(dir *string, open openImages) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "pull IMAGE...",
		Short: "Pull images from their registries, as the node would for a pod",
		Long: `Pull images from their registries, as the node would for a pod: by the mirrors and
certificates of registries.yaml, with the credentials there and in config.json (docker's
format), both in the data directory.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			if images.Registries, err = image.NodeRegistries(*dir, file); err != nil {
				return err
			}
			as, err := image.FileCredentials(filepath.Join(*dir, "config.json"))
			if err != nil {
				return err
			}
			for _, ref := range args {
				img, err := images.PullAs(cmd.Context(), ref, as, tellPull(cmd.ErrOrStderr(), ref))
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "pulled %s (%s)\n", img.Ref, img.Digest)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "registries", "", "YAML file with mirrors, credentials and certificates of image registries; registries.yaml in the data directory by default")
	return cmd
}

// tellPull says now and then how far a pull has come.
func tellPull(out io.Writer, ref string) image.Progress {
	return image.Progress(func(done, total int64) {
		fmt.Fprintf(out, "%s: %d of %d MB\n", ref, done/1e6, total/1e6)
	}).Every(pullTold, time.Now)
}

func imageSave(open openImages) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "save IMAGE... --output FILE",
		Short: "Write images to an archive, an OCI layout that docker reads as well",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			return writeArchive(output, func(f *os.File) error { return images.Export(cmd.Context(), f, args...) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write")
	cmd.MarkFlagRequired("output")
	return cmd
}

// writeArchive writes a file whole or not at all.
func writeArchive(path string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func imageList(open openImages) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			all, err := images.List()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tDIGEST\tSIZE")
			for _, img := range all {
				fmt.Fprintf(w, "%s\t%s\t%d\n", img.Ref, img.Digest, img.Size)
			}
			return w.Flush()
		},
	}
}

func imageRemove(open openImages) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			for _, ref := range args {
				if err := images.Remove(cmd.Context(), ref); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func imageImport() *cobra.Command {
	var name, output string
	var config v1.Config
	cmd := &cobra.Command{
		Use:   "import DIR --name IMAGE",
		Short: "Make an image out of a root folder",
		Long: `Make an image of one layer out of a root folder, and load it into this node's
images, or write it to a file (an OCI archive) with --output.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				dir, err := cmd.Flags().GetString("data-dir")
				if err != nil {
					return err
				}
				images, err := image.Open(filepath.Join(dir, "images"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
				if err != nil {
					return err
				}
				img, err := images.Import(cmd.Context(), args[0], name, config)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "imported %s (%s)\n", img.Ref, img.Digest)
				return nil
			}
			return exportFolder(cmd.Context(), args[0], name, config, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "name of the image")
	flags.StringVar(&output, "output", "", "write an OCI archive to this file instead of loading the image")
	flags.StringSliceVar(&config.Entrypoint, "entrypoint", nil, "program to run, and its first arguments")
	flags.StringSliceVar(&config.Cmd, "cmd", nil, "default arguments")
	flags.StringSliceVar(&config.Env, "env", nil, "environment, NAME=VALUE")
	flags.StringVar(&config.User, "user", "", "user to run as")
	flags.StringVar(&config.WorkingDir, "workdir", "", "directory to run in")
	cmd.MarkFlagRequired("name")
	return cmd
}

// exportFolder makes the image in a store of its own and writes it out whole, or
// not at all.
func exportFolder(ctx context.Context, dir, name string, config v1.Config, output string) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(output), ".image-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	images, err := image.Open(filepath.Join(work, "images"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if _, err := images.Import(ctx, dir, name, config); err != nil {
		return err
	}
	return writeArchive(output, func(f *os.File) error { return images.Export(ctx, f, name) })
}
