#!/bin/sh
# Makes zz_generated.openapi.go from the served versions of k8s.io/api and the
# machinery types they refer to. openapi-gen is a tool of go.mod, so the version
# is the module's.
set -eu
cd "$(dirname "$0")"
api=k8s.io/api
set -- \
  $api/admissionregistration/v1 $api/apidiscovery/v2 $api/apps/v1 \
  $api/authentication/v1 $api/authorization/v1 $api/autoscaling/v1 \
  $api/autoscaling/v2 $api/batch/v1 $api/certificates/v1 $api/coordination/v1 \
  $api/core/v1 $api/discovery/v1 $api/events/v1 $api/flowcontrol/v1 \
  $api/networking/v1 $api/node/v1 $api/policy/v1 $api/rbac/v1 $api/resource/v1 \
  $api/scheduling/v1 $api/scheduling/v1alpha3 $api/storage/v1 $api/storagemigration/v1 \
  k8s.io/metrics/pkg/apis/metrics/v1beta1 \
  k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime \
  k8s.io/apimachinery/pkg/version k8s.io/apimachinery/pkg/api/resource \
  k8s.io/apimachinery/pkg/util/intstr \
  k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 \
  k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
printf '' >header.txt
go tool openapi-gen --go-header-file header.txt --report-filename /dev/null \
  --output-dir . --output-pkg kontiki/apiserver/openapi \
  --output-file zz_generated.openapi.go "$@"
rm -f header.txt
