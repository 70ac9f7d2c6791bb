package config

import (
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// entry is one leaf of a YAML document. Its value is the text as written
// (string), a list ([]any of string or map[string]string), or nil for nothing.
//
// Scalars stay text, so that a password of 0123 is not read as a number and the
// file and the environment go through the same decoder.
type entry struct {
	key    string
	value  any
	line   int
	hidden string // a comment where the value should be: channel: #ops
}

// quoted finds what a YAML error cites from the document, which may be a secret.
var quoted = regexp.MustCompile("'[^']*'|`[^`]*`|\"[^\"]*\"")

func parseYAML(data []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		text = quoted.ReplaceAllString(strings.Join(strings.Fields(text), " "), "…")
		return nil, fmt.Errorf("is not YAML: %s", text)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// parseFile returns the leaves of a settings file, in its order, with dotted
// keys. Keys that are not settings are returned too.
func parseFile(data []byte) ([]entry, error) {
	root, err := parseYAML(data)
	if err != nil || root == nil || isNull(root) {
		return nil, err
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("must be a list of keys and values, as in \"listen: 127.0.0.1:8080\"")
	}
	var out []entry
	err = leaves(root, "", &out)
	return out, err
}

func leaves(n *yaml.Node, path string, out *[]entry) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			return fmt.Errorf("line %d: only plain keys are understood", k.Line)
		}
		key := path + k.Value
		if v.Kind == yaml.MappingNode && len(v.Content) > 0 {
			if err := leaves(v, key+".", out); err != nil {
				return err
			}
			continue
		}
		value, err := leaf(v)
		if err != nil {
			return err
		}
		e := entry{key: key, value: value, line: k.Line}
		if value == nil {
			e.hidden = strings.TrimSpace(k.LineComment + v.LineComment)
		}
		*out = append(*out, e)
	}
	return nil
}

func leaf(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if isNull(n) {
			return nil, nil
		}
		return n.Value, nil
	case yaml.MappingNode: // an empty one
		return nil, nil
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			switch {
			case item.Kind == yaml.ScalarNode:
				list = append(list, item.Value)
			case item.Kind == yaml.MappingNode:
				m := map[string]string{}
				for i := 0; i+1 < len(item.Content); i += 2 {
					k, v := item.Content[i], item.Content[i+1]
					if k.Kind != yaml.ScalarNode || v.Kind != yaml.ScalarNode {
						return nil, fmt.Errorf("line %d: only plain keys and values are understood here", k.Line)
					}
					if _, twice := m[k.Value]; twice {
						return nil, fmt.Errorf("line %d: the same key twice", k.Line)
					}
					if m[k.Value] = v.Value; isNull(v) {
						m[k.Value] = ""
					}
				}
				list = append(list, m)
			default:
				return nil, fmt.Errorf("line %d: lists of lists are not understood", item.Line)
			}
		}
		return list, nil
	default:
		return nil, fmt.Errorf("line %d: anchors and aliases are not understood, write the value", n.Line)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
