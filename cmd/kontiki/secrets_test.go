package main

import (
	"testing"

	"kontiki/node"
)

func TestWhenTheDataKeyIsChanged(t *testing.T) {
	for name, step := range map[string]struct {
		keys   *node.DataKeys
		is, ok bool
	}{
		"no store yet":          {nil, false, true},
		"old keys are left":     {&node.DataKeys{Current: "new", Old: []string{"old"}}, false, true},
		"over":                  {&node.DataKeys{Current: "new"}, true, true},
		"another came after it": {&node.DataKeys{Current: "newer", Old: []string{"new"}}, false, true},
		"it is gone":            {&node.DataKeys{Current: "newer"}, false, false},
	} {
		if is, err := changedTo("new", step.keys); is != step.is || (err == nil) != step.ok {
			t.Errorf("%s: %v, %v", name, is, err)
		}
	}
}
