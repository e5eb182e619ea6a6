package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"kontiki/apiserver/kind"
)

func serviceAccounts(tokens rest.Storage) kind.Definition {
	return &kind.Kind[*corev1.ServiceAccount]{
		Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
		New:           func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
		Warn:          warnServiceAccount,
		NewList:       func() runtime.Object { return &corev1.ServiceAccountList{} },
		ReturnDeleted: true,
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.AgeColumn,
		},
		Cells: func(s *corev1.ServiceAccount) []any {
			return []any{s.Name, kind.Age(s.CreationTimestamp)}
		},
		Extend: func(in kind.Storages) (kind.Storages, error) {
			if tokens != nil {
				in["serviceaccounts/token"] = tokens
			}
			return in, nil
		},
	}
}
