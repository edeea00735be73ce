// Runs cases of server-side apply through Kubernetes' own field manager and prints what it makes of
// them: the oracle for cluster/src/server/apply. Input: JSON cases; output: the cases with results.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/managedfields/managedfieldstest"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

type step struct {
	Op      string                 `json:"op"`
	Manager string                 `json:"manager"`
	Force   bool                   `json:"force,omitempty"`
	Object  map[string]interface{} `json:"object"`
	Result  map[string]interface{} `json:"result,omitempty"`
	Error   string                 `json:"error,omitempty"`
}

type testCase struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Custom     bool    `json:"custom,omitempty"`
	Steps      []*step `json:"steps"`
}

func run(c testCase) {
	gv, err := schema.ParseGroupVersion(c.APIVersion)
	if err != nil {
		panic(err)
	}
	var converter managedfields.TypeConverter = applyconfigurations.NewTypeConverter(scheme.Scheme)
	if c.Custom {
		converter = managedfields.NewDeducedTypeConverter()
	}
	manager := managedfieldstest.NewTestFieldManager(converter, gv.WithKind(c.Kind))
	for _, s := range c.Steps {
		object := &unstructured.Unstructured{Object: s.Object}
		if s.Op == "apply" {
			err = manager.Apply(object, s.Manager, s.Force)
		} else {
			err = manager.Update(object, s.Manager)
		}
		if err != nil {
			s.Error = err.Error()
			continue
		}
		raw, err := json.Marshal(manager.Live())
		if err != nil {
			panic(err)
		}
		s.Result = map[string]interface{}{}
		if err := json.Unmarshal(raw, &s.Result); err != nil {
			panic(err)
		}
	}
}

func main() {
	var cases []testCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	for _, c := range cases {
		run(c)
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(cases); err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stderr, len(cases), "cases")
}
