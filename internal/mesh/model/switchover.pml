/*
 * A model of the switchover protocol of internal/mesh, for the model checker Spin. model_test.go searches all of it.
 *
 * Three nodes (node.go), distribution hosts on one store that replaces its state by conditional write (host.go, switchover.go), and the
 * passing of time. Names are the code's: Current, Next (Number, At), Committed, Without, Decide, Under, Floor, Learn, Persist.
 *
 * What is as in the code
 *
 *   - What a node says, answers and decides comes from its view and from what is durable, by the rules of Node.breaks,
 *     promise, advance, asking, due, durableFor and silence.
 *   - Hosts propose, commit, withdraw and settle by the rules of Host.propose, carry, unconfirmed and settle, and carry out the orders
 *     Stage, Cancel, Add and Strike. Each replaces the state that was read, and fails if there is a newer one.
 *
 * What is more than the code does, so that what holds here holds there
 *
 *   - Messages may take for ever and overtake each other: a node learns any view that is newer than its own, and may skip some,
 *     from the repository, from a mirror that is behind, or from another member.
 *   - What one heard of another may be old: it goes by any state that the other has been in since it promised.
 *   - Time passes at any moment: Decide and T of a proposal are two events, and all that is between two messages may come
 *     before or after either. The window of the clocks' error around T is left out: T is one event for all.
 *   - A host writes at any moment after it had the reasons to. It needs no memory and there is no bound on the number of hosts,
 *     since what gives a host its reason stays true for as long as the state is the one that it read: a promise that was given
 *     stays given, a commit that was taken stays taken. So a write of a host that gave up, or died, and that lands late, is the
 *     same write at that moment. HOSTS=2 gives that up: two hosts, each with what it read and heard, and its write under way.
 *
 * What is less: leases end only with LAPSE, releases are always ready, and clocks are known.
 *
 * Bounds and faults (-D): PROPOSALS, RELEASES, CHANGES of members, CANCELS, FORCES, FAULTS, ABSENT (a fault may be that a member
 * is away for as long as Policy.Absent has it), LAPSE (as Absent.Lapse), TWOPHASE (a crash may come between a write and Persisted).
 * Faults are: a node loses its memory (crash), or the views that it verified as well (forget), a member is away for some time or for ever, all
 * hosts die for good. None happens during the last proposal, and time waits for it while anything else can be done: what must come true in
 * the end, must come true by then.
 *
 * WEAKEN_x breaks one rule each. Every one of them must be found.
 */

#define NODES 3
#define ALL 7

#ifndef PROPOSALS
#define PROPOSALS 2
#endif
#ifndef RELEASES
#define RELEASES 2 /* the first is current, the others are staged one after the other */
#endif
#ifndef FAULTS
#define FAULTS 0
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef FORCES
#define FORCES 0
#endif
#ifndef CHANGES
#define CHANGES 0
#endif
#ifdef TWO
#define MEMBERS 3
#endif
#ifndef MEMBERS
#define MEMBERS ALL /* at first */
#endif
#ifdef WEAKEN_STORE
#define VERSIONS (4 + 3 * PROPOSALS)
#else
#ifdef ABSENT
#define MARKS PROPOSALS
#else
#define MARKS 0
#endif
#define VERSIONS (1 + 3 * PROPOSALS + MARKS + RELEASES - 2 + CHANGES)
#endif

/*
 * States of a promise. Two tell more than in the code: REJOINED is Committed, of a node that had declined before, and UNHEARD is Void, of one
 * that first heard of the proposal after Decide, and so never promised.
 */
#define NONE 0
#define PROPOSED 1
#define COMMITTED 2
#define DECLINED 3
#define VOID 4
#define REJOINED 5
#define UNHEARD 6
#define PRESUMED 7

/* What a distribution host publishes; version 0 is none. A proposal is named by a number, At, that stands for its instant. */
typedef View {
	unsigned Current : 2;
	unsigned Number : 2;
	unsigned At : 3;
	bit Committed;
	bit Presumed;
	unsigned Without : 3;
	unsigned Members : 3
}

/* What a node must not forget. */
typedef Durable {
	unsigned Floor : 2;
	unsigned At : 3;
	unsigned State : 3;
	unsigned Under : 4
}

/* The store, and what is published from it, version by version. */
View published[VERSIONS + 1];
byte version;
bit paused;
bit force; /* an operator wants it made whatever speaks against it */
unsigned leaving : 3; /* members that were removed and may not know it, */
byte leavingFrom;     /* and the version that left the last one out */

/* Of each proposal: its release, and the time. */
#define BEFORE 0
#define LATE 1 /* Decide has passed */
#define PAST 2 /* T has passed */
byte proposals;
byte numberOf[PROPOSALS + 1];
byte phase[PROPOSALS + 1];
byte firstOf[PROPOSALS + 1]; /* the version that proposed it */

/* Nodes. */
byte view[NODES];
Durable mem[NODES]; /* what Persisted said */
#ifdef TWOPHASE
Durable disk[NODES];
#endif
bit wants[NODES]; /* Decision.Persist, as far as it needs no word of others */

/* Faults and operators. */
byte faults = FAULTS;
byte cancels = CANCELS;
byte forces = FORCES;
byte changes = CHANGES;
bit hosts = 1;        /* one is alive */
unsigned away : 3;    /* members that no host hears from, for as long as Policy.Absent has it */
unsigned cut : 3;     /* those of them that nobody ever reaches again */
byte endedPlain, ended; /* leases of views before these have ended: those that name no proposal, and all */

/* The observer's. */
byte high[NODES];    /* the highest release answered from */
unsigned blind : 3;  /* it was forced, or gone on, without these: they had not heard of the proposal, or were away when a commit was presumed taken */
byte blindFrom;      /* the version that proposed it, or that put it on record */

#define has(set, i) (((set) >> (i)) & 1)
#ifdef STORM
#define calm false
#else
#define calm (proposals == PROPOSALS)
#endif
#define past(p) (phase[p] == PAST)
#define takes(s) ((s) == COMMITTED || (s) == REJOINED)
#define nil(s) ((s) == VOID || (s) == UNHEARD)
#define now published[version]
#define seen(i) published[view[i]]

/* Node.commits: a node that is not waited for, or that is no member, takes no commit. */
#ifdef WEAKEN_STRANGER
#define decides(i, v) true
#else
#define decides(i, v) has(published[v].Members, i)
#endif
#ifdef WEAKEN_WITHOUT
#define commitsIn(i, v) (published[v].At != 0 && published[v].Committed && decides(i, v))
#else
#define commitsIn(i, v) (published[v].At != 0 && published[v].Committed && decides(i, v) && !has(published[v].Without, i))
#endif
#define commits(i) commitsIn(i, view[i])
#define stranger(i) (!has(seen(i).Members, i))
#define waited(i, j) ((i) != (j) && has(seen(i).Members, j) && !has(seen(i).Without, j)) /* j is one of Others */

/* What a member says to who asks for the proposal that i holds: what is durable, or was. */
#define holds(i, j) (mem[j].State != NONE && mem[j].At == mem[i].At && !has(cut, j) && !has(cut, i))
#define saysVoid(i, j) ((i) != (j) && holds(i, j) && nil(mem[j].State))
#define saysCommitted(i, j) ((i) != (j) && holds(i, j) && takes(mem[j].State))
#define everDeclined(s) ((s) == DECLINED || nil(s) || (s) == REJOINED || (s) == PRESUMED)
#define anyCommitted(i) (saysCommitted(i, 0) || saysCommitted(i, 1) || saysCommitted(i, 2))
#define anyVoid(i) (saysVoid(i, 0) || saysVoid(i, 1) || saysVoid(i, 2))
#define heldBy(i, j) (!waited(i, j) || holds(i, j))
#define declinedBy(i, j) (!waited(i, j) || holds(i, j) && everDeclined(mem[j].State))

/* Node.asking */
#define undecided(i) (view[i] != 0 && mem[i].At != 0 && mem[i].At == seen(i).At && \
	(mem[i].State == DECLINED || mem[i].State == PRESUMED || mem[i].State == PROPOSED && !commits(i) && phase[mem[i].At] >= LATE))

/* Node.breaks: a view that is older than the promise, or takes a commit back. */
#ifdef WEAKEN_UNDER
#define oldView(i, v) false
#else
#define oldView(i, v) (v < mem[i].Under)
#endif
#define takesBack(i, v, p) (published[v].Current < numberOf[p] && !(published[v].At == p && published[v].Committed))
#define holdsCommit(i) (commits(i) && !(mem[i].At == seen(i).At && (mem[i].State == DECLINED || mem[i].State == PRESUMED || nil(mem[i].State))))
#define breaks(i, v) (oldView(i, v) || takes(mem[i].State) && !holdsCommit(i) && takesBack(i, v, mem[i].At) || \
	holdsCommit(i) && takesBack(i, v, seen(i).At))

/* A view comes from the store or a mirror while a host lives, otherwise from a member: members ask each other then. */
#ifdef WEAKEN_ASK
#define relays(i, j, v) ((i) != (j) && view[j] == v && !has(cut, j) && undecided(i))
#else
#define relays(i, j, v) ((i) != (j) && view[j] == v && !has(cut, j))
#endif
#define reaches(i, v) (!has(cut, i) && (hosts || relays(i, 0, v) || relays(i, 1, v) || relays(i, 2, v)))
#define mayLearn(i, v) (v <= VERSIONS && view[i] < v && v <= version && !breaks(i, v) && reaches(i, v))

/* Variables of one step, which mean nothing after it. A search for the shortest history must not hide any. */
#ifdef SHORTEST
#define scratch byte
#else
#define scratch hidden byte
#endif
scratch v, k, s, serve, due, wFloor, wAt, wState, wUnder, said[NODES];

/* Node.first: nobody commits without the word of who is waited for, and one that hears too late gives none. */
#ifdef WEAKEN_FIRST
#define first(i) (phase[published[v].At] >= LATE && !published[v].Committed -> UNHEARD : PROPOSED)
#else
#define first(i) (phase[published[v].At] >= LATE && !published[v].Committed && !has(published[v].Without, i) -> UNHEARD : PROPOSED)
#endif

/* Node.due and state: 0 while it is not decided. */
inline decideDue(i) {
	due = published[v].Current;
	if
	:: published[v].At != 0 && past(published[v].At) ->
		s = (mem[i].At == published[v].At && mem[i].State != NONE -> mem[i].State : first(i));
		if
		:: takes(s) || s == PROPOSED && commitsIn(i, v) -> due = published[v].Number
		:: nil(s) -> skip
#ifdef WEAKEN_PROMISE
		:: s == PROPOSED && !commitsIn(i, v) -> skip
#endif
		:: else -> due = 0
		fi
	:: else
	fi
}

#define leased(i) (view[i] >= ended && (seen(i).At != 0 || view[i] >= endedPlain))

/* promise(i, a) is Node.promise and advance: a is the state that the words of others allow, NONE if they are not needed. */
inline promise(i, a) {
	v = view[i]; wFloor = mem[i].Floor; wAt = mem[i].At; wState = mem[i].State; wUnder = mem[i].Under;
	if
	:: takes(wState) && past(wAt) && numberOf[wAt] > wFloor -> wFloor = numberOf[wAt]
	:: else
	fi;
	if
	:: v != 0 ->
		if
		:: wState == NONE -> skip
		:: wState != NONE && published[v].Current >= numberOf[wAt] ->
			if
			:: takes(wState) && numberOf[wAt] > wFloor -> wFloor = numberOf[wAt]
			:: else
			fi;
			wAt = 0; wState = NONE
		:: wState != NONE && published[v].Current < numberOf[wAt] && wAt != published[v].At && !takes(wState) -> wAt = 0; wState = NONE
		:: else
		fi;
		if
		:: wState == NONE && published[v].At != 0 && published[v].Number > published[v].Current && decides(i, v) ->
			wAt = published[v].At; wState = first(i)
		:: else
		fi;
		if
		:: wAt != 0 && wAt == published[v].At ->
			if
			:: (wState == PROPOSED || wState == UNHEARD && mem[i].At != wAt) && commitsIn(i, v) -> wState = COMMITTED
			:: published[v].Presumed && a == NONE && (wState == DECLINED || wState == PROPOSED && !commitsIn(i, v)) -> wState = PRESUMED
#ifdef WEAKEN_REJOIN
			:: wState == DECLINED && commitsIn(i, v) && a == NONE -> wState = REJOINED
#endif
			:: else ->
				if
				:: a != NONE -> wState = a
				:: else
				fi
			fi
		:: else
		fi;
		if
		:: wAt != mem[i].At || wState != mem[i].State || stranger(i) -> wUnder = v
		:: else
		fi;
		decideDue(i);
		if
		:: due > wFloor && !stranger(i) && leased(i) -> wFloor = due
		:: else
		fi
	:: else
	fi
}

/* decide(i) is Node.Decide: the release that i answers from, 0 if it is silent. */
inline decide(i) {
	serve = 0; promise(i, NONE);
	wants[i] = wFloor != mem[i].Floor || wAt != mem[i].At || wState != mem[i].State || wUnder != mem[i].Under;
	if
	:: v != 0 && !stranger(i) && leased(i) ->
		wFloor = mem[i].Floor;
		if
		:: takes(mem[i].State) && past(mem[i].At) && numberOf[mem[i].At] > wFloor -> wFloor = numberOf[mem[i].At]
		:: else
		fi;
		if
		:: due != 0 && due >= wFloor && (mem[i].Floor == due ||
			takes(mem[i].State) && past(mem[i].At) && mem[i].At == published[v].At && numberOf[mem[i].At] == due) -> serve = due
#ifdef WEAKEN_DURABLE
		:: due != 0 && due >= wFloor && mem[i].Floor != due -> serve = due
#endif
		:: else
		fi
	:: else
	fi
}

#define differ(i, j) (said[i] != 0 && said[j] != 0 && said[i] != said[j] && !has(blind, i) && !has(blind, j))
#define undone(i) (takes(mem[i].State) && now.Current < numberOf[mem[i].At] && !(now.At == mem[i].At && now.Committed))
#define split(i, j) (mem[i].At == mem[j].At && takes(mem[i].State) && nil(mem[j].State))

/* observe asks every node after every step. */
inline observe() {
	k = 0;
	do
	:: k < NODES ->
		decide(k);
		assert(serve == 0 || serve >= high[k]); /* I1 */
		if
		:: serve > high[k] -> high[k] = serve
		:: else
		fi;
		said[k] = serve;
		if
		:: has(blind, k) && (mem[k].Under >= blindFrom || mem[k].Floor >= published[blindFrom].Number && mem[k].Floor >= published[blindFrom].Current) -> blind = blind & ~(1 << k)
		:: else
		fi;
		k++
	:: else -> break
	od;
	assert(!differ(0, 1) && !differ(0, 2) && !differ(1, 2)); /* I2 */
	assert(!split(0, 1) && !split(1, 0) && !split(0, 2) && !split(2, 0) && !split(1, 2) && !split(2, 1)); /* void and committed */
	assert(!undone(0) && !undone(1) && !undone(2)); /* a commit that one has taken is never undone */
	k = 0; v = 0; s = 0; serve = 0; due = 0; wFloor = 0; wAt = 0; wState = 0; wUnder = 0;
	said[0] = 0; said[1] = 0; said[2] = 0
}

#define put(d, i) d[i].Floor = wFloor; d[i].At = wAt; d[i].State = wState; d[i].Under = wUnder
#define copy(d, i, s) d[i].Floor = s[i].Floor; d[i].At = s[i].At; d[i].State = s[i].State; d[i].Under = s[i].Under

/* Writing: at once, or with a time in which the process may end between the write and the word of it. */
#ifdef TWOPHASE
#define same(i) (mem[i].Floor == disk[i].Floor && mem[i].At == disk[i].At && mem[i].State == disk[i].State && mem[i].Under == disk[i].Under)
#ifdef WEAKEN_SAID
#define write(i) put(mem, i)
#else
#define write(i) put(disk, i)
#endif
#define restart(i) copy(mem, i, disk)
#else
#define restart(i) skip
#define same(i) true
#define write(i) put(mem, i)
#endif

#define LEARN(to) :: mayLearn(i, to) -> view[i] = to

#ifdef WEAKEN_UNANIMOUS
#define allDeclined(i) true
#else
#define allDeclined(i) (declinedBy(i, 0) && declinedBy(i, 1) && declinedBy(i, 2))
#endif
#ifdef WEAKEN_DECLINE
#define mayDecline(i) (mem[i].State == PROPOSED || mem[i].State == COMMITTED)
#else
#define mayDecline(i) (mem[i].State == PROPOSED && !commits(i))
#endif

#ifdef WEAKEN_PRESUMED
#define mayFindVoid(i) true
#define undecidedYet(s) ((s) == DECLINED || (s) == PRESUMED)
#else
#define mayFindVoid(i) (!seen(i).Presumed)
#define undecidedYet(s) ((s) == DECLINED)
#endif

#define known(i) (view[i] != 0 && mem[i].At != 0 && mem[i].At == seen(i).At)

proctype Node(byte i) {
end:	do
	:: atomic {
	if
	LEARN(1) LEARN(2) LEARN(3) LEARN(4) LEARN(5) LEARN(6) LEARN(7) LEARN(8) LEARN(9) LEARN(10) LEARN(11) LEARN(12)
	/* Persist, without a word of others. */
	:: wants[i] && same(i) -> d_step { promise(i, NONE); write(i) }
	/* Node.advance, by their words. */
	:: known(i) && mem[i].State == PROPOSED && same(i) && !commits(i) && seen(i).Committed && anyCommitted(i) ->
		d_step { promise(i, COMMITTED); write(i) }
	:: known(i) && (mem[i].State == DECLINED || mem[i].State == PRESUMED) && same(i) && seen(i).Committed && anyCommitted(i) ->
		d_step { promise(i, REJOINED); write(i) }
	:: known(i) && mem[i].State == PROPOSED && same(i) && !commits(i) && anyVoid(i) && mayFindVoid(i) -> d_step { promise(i, VOID); write(i) }
	:: known(i) && mayDecline(i) && same(i) && !has(seen(i).Without, i) && phase[mem[i].At] >= LATE &&
		heldBy(i, 0) && heldBy(i, 1) && heldBy(i, 2) -> d_step { promise(i, DECLINED); write(i) }
	:: known(i) && undecidedYet(mem[i].State) && same(i) && (anyVoid(i) || allDeclined(i)) && mayFindVoid(i) -> d_step { promise(i, VOID); write(i) }
#ifdef TWOPHASE
#ifdef WEAKEN_SAID
	:: !same(i) -> d_step { copy(disk, i, mem) }
#else
	:: !same(i) -> d_step { copy(mem, i, disk) }
#endif
	/* It crashes: what is on disk is what it knows. */
	:: !same(i) && faults > 0 && !calm -> d_step { faults--; copy(mem, i, disk) }
#endif
	/* It loses the views that it verified, and begins with whatever it finds. */
	:: view[i] != 0 && faults > 0 && !calm -> d_step { faults--; view[i] = 0; restart(i) }
	fi;
	d_step { observe() }
	}
	od
}

/* publish makes the next version from the one that is in force; the caller changes it. */
inline publish() {
	version++;
	published[version].Current = published[version - 1].Current;
	published[version].Number = published[version - 1].Number;
	published[version].At = published[version - 1].At;
	published[version].Committed = published[version - 1].Committed;
	published[version].Presumed = published[version - 1].Presumed;
	published[version].Without = published[version - 1].Without;
	published[version].Members = published[version - 1].Members
}

inline withdraw() { now.At = 0; now.Committed = 0; now.Presumed = 0; now.Without = 0; force = 0 }

#define about(j) (mem[j].State != NONE && mem[j].At == now.At)
#define given(j) (about(j) && mem[j].State != UNHEARD)
#define hears(j) (!has(away, j))
/* Host.unconfirmed: j has promised, or is not waited for and knows of the proposal, or cannot be asked. */
#ifdef LAPSE
#define confirmed(j) (!has(now.Members, j) || given(j) || has(now.Without, j)) /* its lease ends before T */
#else
#define confirmed(j) (!has(now.Members, j) || given(j) || has(now.Without, j) && !hears(j))
#endif
#define taken(j) (has(now.Members, j) && (given(j) && takes(mem[j].State) || mem[j].Floor >= now.Number))
#define refuses(j) (!has(now.Members, j) || has(now.Without, j) || about(j) && everDeclined(mem[j].State))
#define waitedFor (now.Members & ~now.Without)
#ifdef WEAKEN_STRUCK /* the word that it is no member is taken for one about its removal */
#define knows(j) (!has(leaving, j) || view[j] != 0 && stranger(j) && mem[j].Under >= view[j])
#else
#ifdef WEAKEN_STRUCK_SAID
#define knows(j) (!has(leaving, j) || view[j] >= leavingFrom && stranger(j))
#else
#define knows(j) (!has(leaving, j) || view[j] >= leavingFrom && stranger(j) && mem[j].Under >= view[j])
#endif
#endif
#define one(set) ((set) == 0 || (set) == 1 || (set) == 2 || (set) == 4)

/* Those that did not know of the proposal when it was committed: they may answer from the release before. */
#define unawareOne(j) (!given(j) && has(now.Members, j))
#define unaware (unawareOne(0) | unawareOne(1) << 1 | unawareOne(2) << 2)

inline propose(without) {
	publish(); proposals++;
#ifdef WEAKEN_REUSE
	now.At = 1;
#else
	now.At = proposals;
#endif
	now.Without = without; firstOf[now.At] = version; numberOf[now.At] = now.Number;
#ifdef WEAKEN_LEAVING
	leaving = 0
#else
	blind = blind | leaving & away; leaving = 0; blindFrom = (blind -> version : 0)
#endif
}


#ifdef WEAKEN_REUSE
#define ahead (phase[1] != PAST)
#else
#define ahead true
#endif
#define mayPropose (hosts && ahead && now.Number != 0 && now.At == 0 && (!paused || force) && proposals < PROPOSALS)
#define excused(i) (knows(i) || has(away, i))
#ifdef WEAKEN_LEAVING
#define allKnow true
#else
#define allKnow (excused(0) && excused(1) && excused(2))
#endif
#define open (hosts && now.At != 0 && !now.Committed)
#define made (hosts && now.At != 0 && now.Committed)
#define saysDeclined(j) (has(waitedFor, j) && hears(j) && about(j) && (mem[j].State == DECLINED || mem[j].State == PRESUMED || nil(mem[j].State)))
#define heardVoidOf(j) (has(now.Members, j) && hears(j) && about(j) && nil(mem[j].State))
#define heardVoid (heardVoidOf(0) || heardVoidOf(1) || heardVoidOf(2))
#define goneBy(j) (!has(waitedFor, j) || !hears(j) || saysDeclined(j))
#define count(set) (has(set, 0) + has(set, 1) + has(set, 2))
#ifdef LAPSE
#define enough (away & waitedFor) == 0
#else
#define enough count(waitedFor & ~away) >= count(waitedFor & away)
#endif
#define presumed (goneBy(0) && goneBy(1) && goneBy(2) && (force || enough))
/* All who can be asked find it void no more, also those that are not waited for. */
#ifdef WEAKEN_PRESUMED_ALL
#define presumes(j) (!has(waitedFor, j) || !hears(j) || about(j) && mem[j].State == PRESUMED)
#else
#define presumes(j) (!has(now.Members, j) || !hears(j) || about(j) && mem[j].State == PRESUMED)
#endif
#ifdef WEAKEN_PRESUME
#define announced (!now.Presumed)
#else
#ifdef WEAKEN_PRESUMES
#define announced (now.Presumed)
#else
#define announced (now.Presumed && presumes(0) && presumes(1) && presumes(2))
#endif
#endif

/* Host.promised: a commit is not forced on one that decides and has not promised. */
#define promised(j) (!has(waitedFor, j) || given(j))
#ifdef WEAKEN_COMMIT
#define mayCommit open
#else
#ifdef WEAKEN_FORCE
#define mayCommit (open && (force || confirmed(0) && confirmed(1) && confirmed(2)))
#else
#define mayCommit (open && (force && promised(0) && promised(1) && promised(2) || confirmed(0) && confirmed(1) && confirmed(2)))
#endif
#endif
#ifdef LAPSE
#define maybeBlind (force -> unaware : 0)
#else
#define maybeBlind (force -> unaware : unaware & away)
#endif
#ifdef WEAKEN_KNOWS
#undef confirmed
#define confirmed(j) (!has(now.Members, j) || given(j) || has(now.Without, j))
#endif
#ifdef WEAKEN_SETTLE
#define mayCurrent (made && past(now.At))
#else
#ifdef WEAKEN_EARLY
#define mayCurrent (made && (taken(0) || taken(1) || taken(2)))
#else
#define mayCurrent (made && past(now.At) && (taken(0) || taken(1) || taken(2)))
#endif
#endif
#ifdef WEAKEN_NOBODY
#define allRefuse (refuses(0) && refuses(1) && refuses(2))
#else
#ifdef WEAKEN_REFUSED
#define allRefuse (refuses(0) || refuses(1) || refuses(2))
#else
#define allRefuse (waitedFor != 0 && refuses(0) && refuses(1) && refuses(2))
#endif
#endif

inline current() { publish(); now.Current = now.Number; now.Number = 0; withdraw() }

#ifdef WEAKEN_CHANGE
#define mayChange (hosts && !calm && changes > 0 && !now.Committed)
inline changed() { publish() }
#else
#ifdef WEAKEN_CHANGE_COMMITTED
#define mayChange (hosts && !calm && changes > 0)
inline changed() {
	publish();
	if
	:: !now.Committed -> withdraw()
	:: else
	fi
}
#else
#define mayChange (hosts && !calm && changes > 0 && !now.Committed)
inline changed() { publish(); withdraw() }
#endif
#endif

#define STRIKE(i) :: mayChange && has(now.Members, i) -> d_step { changes--; changed(); now.Members = now.Members & ~(1 << i); leaving = leaving | (1 << i); leavingFrom = version }
#define ADD(i) :: mayChange && !has(now.Members, i) -> d_step { changes--; changed(); now.Members = now.Members | (1 << i); leaving = leaving & ~(1 << i) }
#define FORCED(w) :: mayPropose && allKnow && force && (w & ~now.Members) == 0 && (away & now.Members & ~w) == 0 -> d_step { propose(w) }

proctype Host() {
end:	do
	:: atomic {
	if
	/* Host.propose: without those that are away, if they are not more than half; an operator may have it made without any. */
	:: mayPropose && allKnow && !force && one(away & now.Members) -> d_step { propose(away & now.Members) }
	FORCED(0) FORCED(4) FORCED(6) FORCED(7)
	/* Host.carry */
	:: mayCommit -> d_step { blind = blind | maybeBlind; blindFrom = (blind -> firstOf[now.At] : 0); publish(); now.Committed = 1 }
	:: open && (!calm || phase[now.At] >= LATE) -> d_step { publish(); withdraw() }
	/* Host.settle: it is current when one has taken it, and is withdrawn when all that are waited for have declined. */
	:: mayCurrent -> d_step { current() }
	:: made && (allRefuse || heardVoid) -> d_step { publish(); withdraw() }
	/* All that can be asked have declined, and the others are away for too long: that is announced, and done when all who can be asked hold to it. */
	:: made && past(now.At) && !now.Presumed && !heardVoid && presumed && (away & waitedFor) != 0 -> d_step { publish(); now.Presumed = 1 }
	:: made && past(now.At) && !heardVoid && presumed && waitedFor == 0 -> d_step { current() }
	:: made && past(now.At) && !heardVoid && presumed && (away & waitedFor) != 0 && announced -> d_step { blind = blind | away & now.Members; current(); blindFrom = version }
	/* Orders: Stage, Cancel and Resume, Force, Strike and Add. */
	:: hosts && !calm && !now.Committed && (now.Number == 0 -> now.Current : now.Number) < RELEASES -> d_step { publish(); withdraw(); now.Number = (now.Number == 0 -> now.Current : now.Number) + 1 }
#ifdef WEAKEN_CANCEL
	:: hosts && cancels > 0 && !calm && now.At != 0 -> d_step { cancels--; publish(); withdraw(); paused = 1 }
#else
	:: open && cancels > 0 && !calm -> d_step { cancels--; publish(); withdraw(); paused = 1 }
#endif
	:: hosts && paused -> d_step { paused = 0 }
	:: hosts && forces > 0 && !calm && now.At == 0 && now.Number != 0 -> d_step { forces--; force = 1 }
	STRIKE(2) ADD(2)
	fi;
	d_step { observe() }
	}
	od
}

#ifdef HOSTS
/*
 * Two hosts that remember: what each has read, and heard of the members since it read of this proposal, and a write that it has sent to
 * the store and that arrives at some time, or fails because there is a newer state.
 */
#define IDLE 0
#define PROPOSE 1
#define COMMIT 2
#define WITHDRAW 3
#define SETTLE 4
typedef Memory {
	unsigned read : 4;  /* the version, 0: none yet */
	unsigned given : 3; /* who said what of its proposal */
	unsigned taken : 3;
	unsigned declined : 3;
	unsigned voided : 3;
	unsigned sends : 3; /* what is under way to the store, */
	unsigned upon : 4   /* on condition that this is the state there */
}
Memory host[HOSTS];

#define state(h) published[host[h].read]
#define speaks(h, j) (host[h].read != 0 && state(h).At != 0 && mem[j].At == state(h).At && mem[j].State != NONE)
#define word(h, j) (speaks(h, j) && (mem[j].State != UNHEARD && !has(host[h].given, j) || takes(mem[j].State) && !has(host[h].taken, j) || \
	(mem[j].State == DECLINED || nil(mem[j].State)) && !has(host[h].declined, j) || nil(mem[j].State) && !has(host[h].voided, j)))
#define may(h) (hosts && host[h].read != 0 && host[h].sends == IDLE)
#define everyone(set) ((set) == state(h).Members)

inline forget(h) { host[h].given = 0; host[h].taken = 0; host[h].declined = 0; host[h].voided = 0 }
inline send(h, what) { host[h].sends = what; host[h].upon = host[h].read }

#define HEAR(j) :: may(h) && word(h, j) -> d_step { \
	host[h].given = host[h].given | ((mem[j].State != UNHEARD) << j); \
	host[h].taken = host[h].taken | (takes(mem[j].State) << j); \
	host[h].declined = host[h].declined & ~(1 << j) | ((mem[j].State == DECLINED || nil(mem[j].State)) << j); \
	host[h].voided = host[h].voided | (nil(mem[j].State) << j) }

proctype Distributor(byte h) {
end:	do
	:: atomic {
		if
		/* Host.Read and Asked */
		:: hosts && host[h].read < version && host[h].sends == IDLE -> d_step {
			if
			:: state(h).At != now.At || host[h].read == 0 -> forget(h)
			:: else
			fi;
			host[h].read = version }
		HEAR(0) HEAR(1) HEAR(2)
		/* Host.Decide */
		:: may(h) && state(h).Number != 0 && state(h).At == 0 && proposals < PROPOSALS -> send(h, PROPOSE)
		:: may(h) && state(h).At != 0 && !state(h).Committed && host[h].declined == 0 && everyone(host[h].given) -> send(h, COMMIT)
		:: may(h) && state(h).At != 0 && !state(h).Committed && (!calm || phase[state(h).At] >= LATE) -> send(h, WITHDRAW)
		:: may(h) && state(h).At != 0 && state(h).Committed && past(state(h).At) && host[h].taken != 0 -> send(h, SETTLE)
		:: may(h) && state(h).At != 0 && state(h).Committed && host[h].taken == 0 && (everyone(host[h].declined) || host[h].voided != 0) -> send(h, WITHDRAW)
		/* The store */
#ifdef WEAKEN_STORE
		:: host[h].sends == COMMIT && proposals > 0 && version < VERSIONS -> d_step {
			publish(); now.Number = numberOf[published[host[h].upon].At]; now.At = published[host[h].upon].At; now.Committed = 1; host[h].sends = IDLE; host[h].upon = 0 }
		:: host[h].sends != IDLE && host[h].sends != COMMIT && host[h].upon == version -> d_step {
#else
		:: host[h].sends != IDLE && host[h].upon == version -> d_step {
#endif
			if
			:: host[h].sends == PROPOSE -> propose(0)
			:: host[h].sends == COMMIT -> publish(); now.Committed = 1
			:: host[h].sends == WITHDRAW -> publish(); withdraw()
			:: host[h].sends == SETTLE -> current()
			fi;
			host[h].sends = IDLE; host[h].upon = 0 }
		:: host[h].sends != IDLE && host[h].upon < version -> d_step { host[h].sends = IDLE; host[h].upon = 0 }
		/* It dies, and starts again; what it sent is still under way. */
		:: faults > 0 && !calm && host[h].read != 0 -> d_step { faults--; forget(h); host[h].read = 0 }
		fi;
		d_step { observe() }
	}
	od
}
#endif

/* What happens to members and hosts. */
#define AWAY(i) :: faults > 0 && !calm && !has(away, i) -> d_step { faults--; away = away | (1 << i) } \
	:: faults > 0 && !calm && !has(away, i) -> d_step { faults--; away = away | (1 << i); cut = cut | (1 << i) } \
	:: has(away, i) && !has(cut, i) -> d_step { away = away & ~(1 << i) }

proctype Faults() {
end:	do
	:: atomic {
	if
#ifdef ABSENT
	AWAY(2)
#if FAULTS > 1
	AWAY(1) /* the nodes are alike: it does not matter which are away */
#endif
#endif
	:: hosts && faults > 0 && !calm -> d_step { faults--; hosts = 0 }
	fi;
	d_step { observe() }
	}
	od
}

/* Time. Once nobody has any reason left to look at a proposal, its time does not matter. */
#define named(i, p) (view[i] != 0 && seen(i).At == p || mem[i].At == p)
#define matters(p) (now.At == p || named(0, p) || named(1, p) || named(2, p))
#ifdef LAPSE
#ifdef WEAKEN_LAPSED /* a lease that names an earlier proposal counts as ended at that one's instant */
#define lapsed(p) (published[firstOf[p]].Without == 0 || endedPlain >= firstOf[p] && ((p) == 1 || ended >= firstOf[p] || past(1)))
#else
#define lapsed(p) (published[firstOf[p]].Without == 0 || ended >= firstOf[p])
#endif
#else
#define lapsed(p) true
#endif

#define noneCut (cut == 0)
#define well(i) (!has(now.Members, i) || has(cut, i) || said[i] == now.Current)
#define decided(i) (has(blind, i) || !has(now.Members, i) || stranger(i) || has(seen(i).Without, i) || said[i] != 0 || mem[i].State == PRESUMED)

/* What must be true when nothing can happen any more: no member is silent, nor behind, nor is a release not made. */
inline end() {
	k = 0;
	do
	:: k < NODES -> decide(k); said[k] = serve; k++
	:: else -> break
	od;
	if
	:: hosts ->
		assert(well(0) && well(1) && well(2) || made && !presumed);
		assert(!calm || now.Number == 0 || !one(away & now.Members) || made && !presumed)
	:: !hosts && noneCut && view[0] != 0 && view[1] != 0 && (view[2] != 0 || !has(now.Members, 2)) -> assert(decided(0) && decided(1) && decided(2))
	:: else
	fi
}

#define TIME(p) \
	:: !(calm && p == proposals) && phase[p] == BEFORE && matters(p) -> phase[p] = LATE \
	:: !(calm && p == proposals) && phase[p] == LATE && matters(p) && lapsed(p) -> phase[p] = PAST
#define waits (calm && phase[PROPOSALS] < PAST && matters(PROPOSALS) && lapsed(PROPOSALS))

#ifdef STORM
#define mayEnd(p) true
#else
#define mayEnd(p) !(calm && lapsed(p))
#endif

proctype Time() {
	do
	:: atomic {
		if
		TIME(1)
#if PROPOSALS > 1
		TIME(2)
#endif
#if PROPOSALS > 2
		TIME(3)
#endif
#if PROPOSALS > 3
		TIME(4)
#endif
#ifdef LAPSE
		/* Leases end, in whatever order: an operator may have one made shorter than those before. In a quiet time they end when T waits for it. */
		:: now.At != 0 && now.Without != 0 && endedPlain < firstOf[now.At] -> endedPlain = firstOf[now.At]
		:: now.At != 0 && now.Without != 0 && ended < firstOf[now.At] && mayEnd(now.At) -> ended = firstOf[now.At]
#endif
		:: timeout && waits -> phase[PROPOSALS]++
		fi;
		d_step { observe() }
	}
	:: timeout && !waits -> d_step { end() } break
	od
}

init {
	d_step {
		version = 1; now.Current = 1; now.Number = 2; now.Members = MEMBERS;
		k = 0;
		do
		:: k < NODES ->
			if
			:: has(MEMBERS, k) -> view[k] = 1; mem[k].Floor = 1; high[k] = 1;
#ifdef TWOPHASE
				disk[k].Floor = 1
#endif
			:: else
			fi;
			k++
		:: else -> break
		od;
		k = 0
	}
	atomic {
		run Node(0); run Node(1);
#ifndef TWO /* two nodes only: the third is no member and hears nothing */
		run Node(2);
#endif
#ifdef HOSTS
		run Distributor(0); run Distributor(1);
#else
		run Host();
#endif
		run Faults(); run Time()
	}
}
