// Package mesh is the protocol by which all nodes of a mesh move from one release to the next at one instant (SYNC-E to H).
// Node decides which release one node answers from, or that it is silent and why. Host decides what a distribution host
// publishes: when a switchover is proposed, committed, withdrawn and put on record, and when the lease is renewed.
//
// It is pure: it may import instant and status and nothing that touches network, disk, clock or goroutine. The plugin
// meshsync drives a Node, the sidecar carries its questions to other members, cmd/meshctl drives a Host, and internal/sim
// runs a thousand of both.
//
// # When a node switches, and why two never differ
//
//	host                                   each member
//	────                                   ───────────
//	release N+1 is staged          ──►     verifies, compiles            "N+1 is ready"
//	propose (N+1, T)               ──►     writes: from T on not N       "promised"
//	all have promised: commit      ──►     writes: at T, N+1             "committed"
//	                                T      answers from N+1
//	one has switched: N+1 is current
//
// A member that has promised does not answer from N after T, whatever becomes of everything else, until it learns that the
// proposal was withdrawn. The host commits only when every member has promised, and a commit is never taken back. So when
// the first member answers from N+1, no other answers from N. A member that does not know at T whether the switchover is made
// is silent until it does.
//
// A host may die between the two, so members decide without it. From Decide on, before T, a member that knows of no commit
// asks all others. If one has the commit, it takes the signed view from that one. If none has, it writes that it declines:
// it will take the commit only if another member has taken it. When all have declined the proposal is void, and all go on
// answering from N. One that has taken the commit never declines, and one that has declined takes none first; so the proposal is
// not void for one member and made by another. A member that first hears of a proposal after Decide has promised nothing, so
// nobody has committed it, and nobody will: it takes the proposal as void at once, and so does who hears that from it.
//
// A member that is not waited for (Next.Without) decides nothing. It goes along at T if it has heard of the commit and a member
// that is waited for says that it has taken it; otherwise when the release has become current.
//
// A node serves release R at its clock's time c, with error bound e, only if all of these hold:
//
//	R is what the schedule it holds names at c, and that is decided       SYNC-E
//	R is verified and compiled by itself                                  SYNC-D, SYNC-F
//	R is not below its floor, and the floor is durable                    SYNC-G
//	it holds a lease that permits R and has not ended at c + e            SYNC-H
//	e is at most ε, or no switchover lies in [c - e, c + e]               CLOCK-1
//
// # The invariants
//
//	I1  No node ever answers from a lower release than it has answered from before.
//	I2  Two nodes answer from different releases only within e1 + e2 of T, whatever fails, unless an operator forced a commit,
//	    or it was gone on without a member that could not be reached (Policy.Absent).
//	I3  A node without the right data at T does not answer after T until it has it.
//	I4  A node that holds the right data, a live lease and a certified clock answers.
//	I5  No failure of one thing silences more nodes than it touches.
//	I6  Once all is healed, every node answers from the newest release within a minute, and new releases go out.
//
// # The caller's duties
//
// Of a Node:
//
//  1. Learn gets views that were verified, in the order of their versions, each on disk before.
//  2. What Persist says is written and fsynced before Persisted is called. A write that failed is tried again.
//  3. Queries are answered from Serve until Until, and then from Then until Lapse; Answered tells of it before the next Decide.
//  4. Decide is called after each fact, at Wake, and ten times a second, since the wall clock may step.
//  5. While Ask is set, or no host is reached, the other members are asked again and again: a newer view of theirs goes to Learn,
//     what they hold to Hear.
//
// Of a Host, in a loop:
//
//		for {
//			h.Read(state)                        // as it is in the store now
//			h.Asked(ask(h.Ask()), began, ended)  // all at once, each with a time limit
//			d := h.Decide(now)
//			if d.Publish != nil {
//				sign(d.Publish); replace(state)  // on condition that it has not changed, before d.By
//			}
//			wait()                               // a fraction of a second while a switchover is under way
//		}
//
//	 6. The state is replaced by one conditional write, and what it publishes is put in place by whoever sees that it is not.
//	 7. An operator's orders (Stage, Cancel, Add, Strike, …) are carried out between Asked and Decide, by the same write.
package mesh
