// Package apiserver asks a real API server what it thinks of deploy/kubernetes: kube-apiserver and kubectl as their own modules have
// them, and etcd, each a process of the test's binary on loopback. It follows the commands of docs/deploy/kubernetes.md. There is no
// kubelet and no scheduler: nothing runs, and the test binds pods to nodes itself. Controllers of DaemonSets and Jobs are the real ones.
//
// It compiles most of Kubernetes, so "./build.sh test" runs it with FULL=1 only.
package apiserver
