// Package sidecar tests the real anycast-sidecar end to end: in network namespaces, before a real NSD, towards real
// routers: FRR, BIRD, OpenBGPD and GoBGP by BGP, FRR and BIRD by OSPF, FRR by IS-IS. What is asserted is the router's
// table. With FULL=1 what is timed is done ten times over, one world after the other, and medians are printed.
package sidecar
