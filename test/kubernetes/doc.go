// Package kubernetes tests deploy/kubernetes. It is a module of its own, so that what renders manifests and what knows Kubernetes' types
// are none of the product's dependencies. Overlays are rendered as "kubectl kustomize" does it and the chart as "helm template" does,
// every object is decoded strictly by the real API types, and both must come to the same.
package kubernetes
