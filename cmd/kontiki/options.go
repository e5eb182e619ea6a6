package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// notInFile are flags that say where things are read from, or do something else
// than configure a node.
var notInFile = map[string]bool{"config": true, "help": true, "teardown": true}

// fillFlags sets the flags that the command line did not: from KONTIKI_… variables,
// else from the YAML file that is named, by flag or variable.
func fillFlags(flags *pflag.FlagSet, file *string, env func(string) (string, bool)) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "KONTIKI_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, set := env(name)
		if err != nil || f.Changed || !set || value == "" || f.Name == "help" || f.Name == "teardown" {
			return
		}
		if serr := flags.Set(f.Name, value); serr != nil {
			err = fmt.Errorf("the variable %s: %w", name, serr)
		}
	})
	if err != nil || *file == "" {
		return err
	}
	data, err := os.ReadFile(*file)
	if err != nil {
		return fmt.Errorf("read the node's options: %w", err)
	}
	var options map[string]any
	if err := yaml.UnmarshalStrict(data, &options); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		f := flags.Lookup(name)
		if f == nil || notInFile[name] {
			return fmt.Errorf("%s: there is no option %q; there are %s", *file, name, strings.Join(optionNames(flags), ", "))
		}
		if f.Changed {
			continue
		}
		value, err := optionText(options[name])
		if err != nil {
			return fmt.Errorf("%s: %s: %w", *file, name, err)
		}
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("%s: %w", *file, err)
		}
	}
	return nil
}

// optionText is a value of the file as it would stand on the command line.
func optionText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case []any:
		var parts []string
		for _, item := range v {
			text, err := optionText(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, ","), nil
	default:
		return "", fmt.Errorf("want text, a number, true or false, or a list of these")
	}
}

func optionNames(flags *pflag.FlagSet) (names []string) {
	flags.VisitAll(func(f *pflag.Flag) {
		if !notInFile[f.Name] {
			names = append(names, f.Name)
		}
	})
	return names
}
