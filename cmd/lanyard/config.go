package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// defaultConfig is the daemon's configuration file. It need not be there.
const defaultConfig = "/etc/lanyard/config.yaml"

// setting is what the daemon goes by, and who said so: a flag, the environment, a file, or
// nobody.
type setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// settings are the flags that the configuration file may have as well.
func settings(f *pflag.FlagSet) (list []*pflag.Flag) {
	f.VisitAll(func(flag *pflag.Flag) {
		if !slices.Contains([]string{"config", "check", "json", "help"}, flag.Name) {
			list = append(list, flag)
		}
	})
	return list
}

// configure sets the flags of a command that were not typed from its configuration file, and says
// what they are now. An error names the file and the line. It is called before anything else is
// done.
func configure(cmd *cobra.Command, path string) ([]setting, error) {
	flags, from := settings(cmd.Flags()), map[string]string{}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("config"):
	case err != nil:
		return nil, fmt.Errorf("configuration: %w", err)
	default:
		values, err := parseConfig(text, flags)
		if err != nil {
			return nil, fmt.Errorf("configuration: %s: %w", path, err)
		}
		for name, value := range values {
			flag := cmd.Flags().Lookup(name)
			if flag.Changed || name == "control-socket" && os.Getenv(envSocket) != "" {
				continue
			}
			if err := flag.Value.Set(value); err != nil {
				return nil, fmt.Errorf("configuration: %s: key %s: %w", path, name, err)
			}
			from[name] = path
		}
	}
	var list []setting
	for _, flag := range flags {
		s := setting{flag.Name, flag.Value.String(), "default"}
		switch {
		case flag.Changed:
			s.From = "--" + flag.Name
		case flag.Name == "control-socket" && os.Getenv(envSocket) != "":
			s.Value, s.From = os.Getenv(envSocket), envSocket
		case from[flag.Name] != "":
			s.From = from[flag.Name]
		}
		list = append(list, s)
	}
	return list, nil
}

// parseConfig reads a configuration file: keys that are flags, with what the flags take.
func parseConfig(text []byte, flags []*pflag.Flag) (map[string]string, error) {
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil // nothing but comments
	case err != nil:
		return nil, err
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	names := make([]string, len(flags))
	for i, flag := range flags {
		names[i] = flag.Name
	}
	values := map[string]string{}
	err := eachKey(doc.Content[0], "", names, func(key string, v *yaml.Node) (err error) {
		if values[key], err = scalar(key, v); key == "store" && v.Kind == yaml.MappingNode {
			values[key], err = storeText(v)
		}
		if err == nil && key == "store" && values[key] != "" {
			if _, err = cluster.Parse(values[key]); err != nil {
				err = fmt.Errorf("line %d: store: %w", v.Line, err)
			}
		}
		return err
	})
	return values, err
}

// eachKey calls do for each key of a mapping. Keys that are not among names, or there twice, are
// refused. in names the mapping.
func eachKey(n *yaml.Node, in string, names []string, do func(key string, v *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want keys with values, such as %s: VALUE", n.Line, names[0])
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		switch hint := lan.Nearest(key.Value, names); {
		case !slices.Contains(names, key.Value) && hint != "":
			return fmt.Errorf("line %d: unknown key %q; did you mean %s?", key.Line, in+key.Value, in+hint)
		case !slices.Contains(names, key.Value):
			return fmt.Errorf("line %d: unknown key %q; known are %s", key.Line, in+key.Value, strings.Join(names, ", "))
		case seen[key.Value] != 0:
			return fmt.Errorf("line %d: key %q is there twice, in line %d as well", key.Line, in+key.Value, seen[key.Value])
		}
		seen[key.Value] = key.Line
		if err := do(key.Value, v); err != nil {
			return err
		}
	}
	return nil
}

// scalar is the text of a key.
func scalar(key string, v *yaml.Node) (string, error) {
	if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
		return "", fmt.Errorf("line %d: key %q: want text", v.Line, key)
	}
	return v.Value, nil
}

// storeText is the text of a store that is written as a mapping.
func storeText(n *yaml.Node) (string, error) {
	var endpoints, prefix string
	query := url.Values{}
	names := []string{"endpoints", "prefix", "tls", "ca", "cert", "key", "user", "password-file"}
	err := eachKey(n, "store.", names, func(key string, v *yaml.Node) error {
		if key == "endpoints" && v.Kind == yaml.SequenceNode {
			var list []string
			for _, item := range v.Content {
				text, err := scalar("store.endpoints", item)
				if err != nil {
					return err
				}
				list = append(list, text)
			}
			endpoints = strings.Join(list, ",")
			return nil
		}
		text, err := scalar("store."+key, v)
		switch {
		case err != nil:
			return err
		case key == "endpoints":
			endpoints = text
		case key == "prefix":
			prefix = "/" + strings.Trim(text, "/")
		case key == "tls":
			on := map[string]string{"true": "on", "on": "on", "false": "off", "off": "off"}[text]
			if on == "" {
				return fmt.Errorf("line %d: key \"store.tls\": it is on or off", v.Line)
			}
			query.Set(key, on)
		default:
			query.Set(key, text)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if endpoints == "" {
		return "", fmt.Errorf("line %d: key \"store.endpoints\" is missing: the members of etcd", n.Line)
	}
	text := cluster.Scheme + endpoints + prefix
	if len(query) > 0 {
		text += "?" + query.Encode()
	}
	return text, nil
}
