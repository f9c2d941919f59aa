// Package sidecar tests the real anycast-sidecar end to end: in network namespaces, before a real NSD, towards a real FRR
// and a real BIRD. What is asserted is the routing table of the router's kernel.
package sidecar
