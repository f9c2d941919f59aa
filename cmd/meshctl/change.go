package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

func (c *cli) setCommand() *cobra.Command {
	var change enrol.MeshChange
	cmd := c.withJSON(&cobra.Command{
		Use:   "set [--shared ADDRESS,…] [--url URL,…] [--san NAME,…]",
		Short: "Change what init was told: shared addresses, URLs, names of this host; and make the bundles anew",
		Long: `Change what init was told, and make anew what comes of it: the templates, this host's certificate, and the bundles of all members,
whose keys stay. Without a flag the bundles are made anew, by the templates as they are now.

A node goes by its new configuration once it is given its bundle, and both processes were started again, or were told to reload. When
shared addresses change, give each node both the old and the new ones first; then routes and resolvers follow.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			return c.writing(cmd.Context(), func(w *home.Writer) error {
				done, err := enrol.Change(w, change)
				if err != nil {
					return err
				}
				c.doubt(done.Bundles...)
				return c.print(done, func() {
					if change.SANs != nil {
						c.say("this host's certificate is for %s; meshctl serve takes it by itself", strings.Join(change.SANs, ", "))
					}
					for _, file := range done.Kept {
						c.say("the template was changed by hand; as it was it is %s", file)
					}
					for _, name := range done.Bundles {
						c.say("the bundle of %s is made anew: %s", name, c.home().Path("members", name+".tar"))
					}
					for _, name := range done.Others {
						c.say("NOT MADE: what %s was added with is not known here: meshctl member update %s --admin HOST:PORT …", name, name)
					}
				})
			})
		}),
	})
	f := cmd.Flags()
	f.StringSliceVar(&change.Shared, "shared", nil, "the shared-unicast addresses, all of them")
	f.StringSliceVar(&change.URLs, "url", nil, "where nodes find the repository, all of it")
	f.StringSliceVar(&change.SANs, "san", nil, "names and addresses under which members reach \"meshctl serve\", all of them")
	return cmd
}

// doubt warns of Corefiles in bundles that were made, once of each line: they are made of one template.
func (c *cli) doubt(members ...string) {
	said := map[string]bool{}
	for _, name := range members {
		for _, doubt := range enrol.Doubts(c.home(), name) {
			if !said[doubt] {
				said[doubt] = true
				fmt.Fprintf(c.log, "warning: %s: %s. It is made of HOME/templates/Corefile. For a coredns of your own see: anycast-sidecar check --coredns\n",
					c.home().Path("members", name, "Corefile"), doubt)
			}
		}
	}
}

// memberFlags gives a command the flags that describe a node.
func memberFlags(f *pflag.FlagSet, n *enrol.NewMember) {
	f.StringVar(&n.Admin, "admin", "", "HOST:PORT of its sidecar's administrative plane")
	f.StringVar(&n.At, "at", "", "directory, by its absolute path, in which the node keeps everything (default /etc/mesh, /var/lib/mesh and /run/mesh)")
	f.Uint32Var(&n.AS, "as", 0, "its autonomous system")
	f.StringSliceVar(&n.Routers, "router", nil, "addresses of the routers that it announces to, of each family that is announced")
	f.Uint32Var(&n.RouterAS, "router-as", 0, "the router's autonomous system")
	f.StringVar(&n.RouterID, "router-id", "", "its BGP identifier (default: the administrative address)")
}

func (c *cli) memberUpdateCommand() *cobra.Command {
	var n enrol.NewMember
	cmd := c.withJSON(&cobra.Command{
		Use:   "update NAME",
		Short: "Change what member add was told of a node, and make its bundle anew",
		Long: `Change what member add was told of a node, and make its bundle anew, by the templates as they are now; its key stays. What no flag says
stays. Another administrative address is known to the mesh at once: give the node its bundle at the same time.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if err := c.settle(cmd.Context()); err != nil {
				return err
			}
			said := func(flag string) bool { return cmd.Flags().Changed(flag) }
			return c.writing(cmd.Context(), func(w *home.Writer) error {
				dir, err := enrol.UpdateMember(cmd.Context(), w, args[0], func(was *enrol.NewMember) {
					for flag, take := range map[string]func(){
						"admin": func() { was.Admin = n.Admin }, "at": func() { was.At = n.At }, "as": func() { was.AS = n.AS },
						"router": func() { was.Routers = n.Routers }, "router-as": func() { was.RouterAS = n.RouterAS }, "router-id": func() { was.RouterID = n.RouterID },
					} {
						if said(flag) {
							take()
						}
					}
				})
				if err != nil {
					return err
				}
				c.doubt(args[0])
				facts := struct {
					Name   string `json:"name"`
					Bundle string `json:"bundle"`
				}{args[0], dir}
				return c.print(facts, func() { c.say("the bundle of %s is made anew: %s", args[0], fmt.Sprint(dir, ".tar")) })
			})
		}),
	})
	cmd.ValidArgsFunction = c.member()
	memberFlags(cmd.Flags(), &n)
	return cmd
}
