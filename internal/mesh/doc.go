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
//	      host                                   each member                       promise
//	      ────                                   ───────────                       ───────
//	      release N+1 is staged          ──►     verifies and compiles it
//	      propose (N+1, T), with D < T   ──►     writes: from T on not N           proposed
//	      all have confirmed: commit     ──►     writes: from T on N+1             committed
//	D     no commit is published any more        who knows of none asks the others
//	T                                            answers from N+1
//	T+2ε  N+1 is current, on record      ──►     forgets the promise
//
// T is Next.At and D is Next.Decide, before T by as much as members need to ask each other and to decline. ε is how wrong a clock may be around T. A member
// confirms what it has promised when it can also make it: N+1 is compiled, and its clock is good enough.
//
// Who has promised does not answer from N after T, whatever becomes of everything else, until it learns that the proposal was
// withdrawn or is void. The host commits only when every member has promised. So when the first member answers from N+1, no
// other answers from N. Who does not know at T whether the switchover is made is silent until it does. A commit that one member
// has taken is never taken back.
//
// The host may die between proposal and commit, so members decide without it:
//
//	from D on, a member that knows of no commit asks all others, again and again
//	  one of them has it           it takes the signed view from that one         committed
//	  none has it                  it writes that it declines                     declined
//	  all have declined            the proposal is void: all go on with N         void
//	  one cannot be asked          it is silent from T on, until that one or a host can be
//
// Who has committed never declines. Who has declined commits only if another member has committed. So all end as void, or all as
// committed. A commit that reached nobody before all had declined is void like the proposal, and the host withdraws it. Who first
// hears of a proposal after D has promised nothing: so nobody has committed, and nobody will. To it the proposal is void at once,
// and to who hears that from it.
//
// A commit that all who can be asked have declined, while others are away, may have been taken by one of these. After a while a host has it
// count as taken: it publishes that first (Next.Presumed), members write that they do not find it void any more, and when all who answer
// have, N+1 is current.
//
// A member that is away, or cannot make the switchover, is after a while not waited for (Policy.Absent): Next.Without names it, and
// it decides nothing. It is silent from T on, unless it has heard of the commit and a member that is waited for says that it has
// committed; otherwise it follows when N+1 is current. If it has heard nothing of all this, it answers from N until its lease ends.
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
//  3. Queries are answered from what Answering gives, as On has it of the time of each; Answered tells of it before the next Decide.
//  4. Decide is called after each fact, at Wake, and ten times a second while a switchover is known, since the wall clock may step; at rest
//     twice a second, and when a query finds that the two clocks have not run alike (Answering.On).
//  5. While Ask is set, or no host is reached, the other members are asked again and again: a newer view of theirs goes to Learn,
//     what they hold to Hear. A member that is asked by one with a newer view asks back.
//
// Of a Host, in a loop:
//
//		for {
//			h.Read(state)                        // as it is in the store now
//			h.Asked(ask(h.Ask()), began, ended)  // all at once, within h.Patience while a switchover is under way
//			h.Publishing(takes, seen)            // as publications of lately were
//			d := h.Decide(now)
//			if d.Publish != nil {
//				sign(d.Publish); replace(state)  // on condition that it has not changed, before d.By, or else
//				h.TooLate()
//			}
//			wait()                               // while a switchover is under way as long as the round took, and at most a quarter of a
//			                                     // second; a second, but not beyond d.Wake, if that is set and nothing is against it
//		}
//
//	 6. The state is replaced by one conditional write, and what it publishes is put in place by whoever sees that it is not.
//	 7. An operator's orders (Stage, Cancel, Add, Strike, …) are carried out between Asked and Decide, by the same write.
package mesh
