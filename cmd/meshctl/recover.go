package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
)

func (c *cli) recoverCommand() *cobra.Command {
	var longest time.Duration
	cmd := c.withJSON(&cobra.Command{
		Use:   "recover [COPY...]",
		Short: "Bring a home that was restored from a backup up to what nodes have verified",
		Long: `Bring a home that was restored from a backup up to what nodes have verified, which else refuse what it publishes as older.
"meshctl serve" must not run here, nor anywhere with this home.

A COPY is a directory with a copy of the repository: best of each member's depot, /var/lib/mesh/repository, fetched from the
node; the home's own repository is looked at too. The newest is taken over, if all follow from the state in this home by the
keys that it knows. Files of the home's repository that are lost or damaged are taken from whatever copy has them. A member whose
copy is not given may have verified something newer. While it is heard from, the distribution host then publishes nothing and says
"state-restored"; the member says "rollback" in meshctl status, goes on answering until its lease ends, and is silent after that.
Run this again with its copy.

Which leases have left since the backup cannot be known. They are taken to last as long as the longest of them could, counted from
now. A switchover that has to wait for leases to end, because a member is away (with --absent lease) or was removed, comes no
earlier than that. A release that was made after the newest copy is gone: make it again.`,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if work, err := unattended.ReadWork(cmd.Context(), c.home()); err != nil || work != nil {
				return hint.Errorf("stop it, and run this again", "meshctl serve runs on this home")
			}
			r, err := c.home().Recover(cmd.Context(), args, longest)
			if err != nil {
				return err
			}
			view, err := c.home().View(cmd.Context())
			if err != nil {
				return err
			}
			facts := struct {
				home.Recovered
				Revoked []string `json:"revoked_bundles,omitempty"` // members whose bundles in the home nobody takes
			}{r, enrol.RevokedBundles(c.home(), view.Manifest)}
			return c.print(facts, func() {
				if r.From != "" {
					c.say("taken over from %s", r.From)
				}
				c.say("the newest lease has version %d, the highest release is %d", r.Lease, r.Highest)
				c.say("leases that are not known here are taken to live until %s", secondOf(r.Promised))
				c.sayNewer(r.Newer)
				if len(r.Lost) > 0 {
					c.say("files of these zones are lost or damaged in the repository, and no copy has them: %s; give the depot of another member", strings.Join(r.Lost, ", "))
				}
				for _, name := range facts.Revoked {
					c.say("the bundle of %s in this home has a key that was revoked since: do not give it to the node; for a new one: meshctl member renew --new-key %s", name, name)
				}
				c.say("next: meshctl lease, then meshctl status")
			})
		}),
	})
	cmd.Flags().Var(number.Duration(&longest, 0, home.MaxLease), "longest", "the longest lease given since the backup, if by meshctl lease --for it was longer than usual")
	return cmd
}

// shownNewer is how many zones "meshctl recover" names; --json has all.
const shownNewer = 20

// sayNewer names the zones whose files in a restored home are older than what nodes answer from.
func (c *cli) sayNewer(zones []home.NewerZone) {
	if len(zones) == 0 {
		return
	}
	c.say("zones that nodes have newer than this home had; their texts, compressed with zstd, are in the repository, or in the home below recovered/:")
	for i, z := range zones {
		if i == shownNewer {
			c.say("  and %d more: --json has all", len(zones)-i)
			break
		}
		had := "none"
		if z.Had != 0 {
			had = fmt.Sprint(z.Had)
		}
		c.say("  %s serial %s → %d: %s", z.Origin, had, z.Serial, cmp.Or(z.Text, "lost"))
	}
	c.say("zone files in a restored home are as old as its backup: bring those of these zones up before meshctl serve runs (docs/operate/backup.md)")
}
