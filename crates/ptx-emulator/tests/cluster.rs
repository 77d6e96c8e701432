//! Clusters, shared memory of other blocks, `mbarrier` and `st.async`: what they do, and every way to use them wrongly.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Report, Shape};

/// Blocks of 64 threads. `%mine` and `%peers` are a thread's word of its own block's shared memory and of the next block's.
const HEAD: &str = ".version 9.0 .target sm_90 .address_size 64
.visible .entry k(.param .u64 pg, .param .u64 pout) {
.reg .pred %p<6>; .reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .b64 %g; .reg .b64 %out;
.reg .b32 %t; .reg .b32 %rank; .reg .b32 %next; .reg .b32 %mine; .reg .b32 %peers; .reg .b32 %bar; .reg .b32 %their;
.shared .align 16 .b8 s[1024]; .shared .align 8 .b64 full[2];
ld.param.u64 %g, [pg]; ld.param.u64 %out, [pout];
mov.u32 %t, %tid.x; mov.u32 %rank, %cluster_ctarank; mov.u32 %r1, %cluster_nctarank;
add.u32 %next, %rank, 1; setp.eq.u32 %p1, %next, %r1; @%p1 mov.u32 %next, 0;
shl.b32 %mine, %t, 2; mapa.shared::cluster.u32 %peers, %mine, %next;
mov.u32 %bar, full; mapa.shared::cluster.u32 %their, %bar, %next;
mov.u32 %r1, %ctaid.x; mad.lo.u32 %r1, %r1, 64, %t; mul.wide.u32 %rd1, %r1, 4; add.s64 %out, %out, %rd1;
mov.u32 %r4, 0; setp.eq.u32 %p1, %t, 0; setp.eq.u32 %p2, %rank, 0; and.pred %p3, %p1, %p2;
";

const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";
/// Each thread's own word is 7.
const FILL: &str = "st.shared.u32 [%mine], 7;";
/// Ten times the rank, plus the thread, into the next block.
const SEND: &str = "mad.lo.u32 %r2, %rank, 1000, %t; st.shared::cluster.u32 [%peers], %r2;";
const READ: &str = "ld.shared.u32 %r4, [%mine];";

fn launch_with(body: &str, shape: &Shape, options: &Options) -> Result<Vec<u32>, Error> {
    let module = Module::parse(&format!("{HEAD}{body}\nst.global.u32 [%out], %r4; ret; }}"))?;
    let mut memory = Memory::new();
    let g = memory.alloc_f32("g", &[0.0; 64]);
    let count = shape.grid.iter().product::<u32>() as usize * 64;
    let out = memory.alloc("out", 4 * count);
    module.launch("k", shape, &[Arg::U64(g), Arg::U64(out)], &mut memory, options)?;
    let bytes = memory.read(out, 4 * count)?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
}

fn shape(blocks: u32) -> Shape {
    Shape { grid: [blocks, 1, 1], block: [64, 1, 1], cluster: [2, 1, 1], ..Shape::default() }
}

fn launch(body: &str, seed: u64) -> Result<Vec<u32>, Error> {
    launch_with(body, &shape(4), &Options { seed, ..Options::default() })
}

#[track_caller]
fn clean(body: &str) -> Vec<u32> {
    let run = |seed| launch(body, seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let first = run(0);
    for seed in 1..6 {
        assert_eq!(run(seed), first, "seed {seed}");
    }
    first
}

/// The same kind of bug under every schedule.
#[track_caller]
fn caught(body: &str, kind: Kind) -> Report {
    let mut last = None;
    for seed in (0..6).rev() {
        match launch(body, seed) {
            Err(Error::Kernel(report)) => {
                assert_eq!(report.kind, kind, "seed {seed}: {report}");
                last = Some(*report);
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    last.unwrap()
}

/// What the next block sent to each thread, in two clusters of two blocks: block 0 has got that of rank 1.
fn sent() -> Vec<u32> {
    (0..256).map(|i| (1 - i / 64 % 2) * 1000 + i % 64).collect()
}

#[test]
fn special_registers_tell_the_place_in_the_cluster() {
    let shape = Shape { grid: [4, 2, 2], block: [64, 1, 1], cluster: [2, 1, 2], ..Shape::default() };
    let out = "mov.u32 %r5, %nctaid.x; mov.u32 %r6, %ctaid.y; mov.u32 %r7, %ctaid.z; mad.lo.u32 %r6, %r7, 2, %r6;
        mul.lo.u32 %r6, %r6, %r5; mul.wide.u32 %rd1, %r6, 256; add.s64 %out, %out, %rd1;";
    let read = |register: &str| {
        let body = format!("{out} mov.u32 %r4, {register};");
        let all = launch_with(&body, &shape, &Options::default()).unwrap();
        all.chunks(64).map(|block| block[0]).collect::<Vec<_>>()
    };
    let expected = |value: fn([u32; 3]) -> u32| (0..16).map(|i| value([i % 4, i / 4 % 2, i / 8])).collect::<Vec<_>>();
    assert_eq!(read("%clusterid.x"), expected(|[x, _, _]| x / 2));
    assert_eq!(read("%clusterid.y"), expected(|[_, y, _]| y));
    assert_eq!(read("%clusterid.z"), expected(|_| 0));
    assert_eq!(read("%nclusterid.x"), [2; 16]);
    assert_eq!(read("%cluster_ctaid.x"), expected(|[x, _, _]| x % 2));
    assert_eq!(read("%cluster_ctaid.z"), expected(|[_, _, z]| z));
    assert_eq!(read("%cluster_nctaid.z"), [2; 16]);
    assert_eq!(read("%cluster_ctarank"), expected(|[x, _, z]| x % 2 + 2 * z));
    assert_eq!(read("%cluster_nctarank"), [4; 16]);
}

#[test]
fn blocks_reach_each_others_shared_memory() {
    assert_eq!(clean(&format!("{FILL}{SYNC}{SEND}{SYNC}{READ}")), sent());
    let load = format!("{FILL} st.shared.u32 [%mine], %rank; {SYNC} ld.shared::cluster.u32 %r4, [%peers]; {SYNC}");
    assert_eq!(clean(&load), (0..256).map(|i| 1 - i / 64 % 2).collect::<Vec<_>>());
    // By generic addresses, and with the rank that an address has.
    let generic = format!(
        "{FILL}{SYNC} cvt.u64.u32 %rd4, %mine; cvta.shared.u64 %rd4, %rd4; mapa.u64 %rd5, %rd4, %next;
         mad.lo.u32 %r2, %rank, 1000, %t; st.u32 [%rd5], %r2; getctarank.u64 %r5, %rd5; {SYNC}{READ}
         sub.u32 %r5, %r5, %next; add.u32 %r4, %r4, %r5;"
    );
    assert_eq!(clean(&generic), sent());
    // An address in the cluster's window may be in the own block.
    let own = "mapa.shared::cluster.u32 %r5, %mine, %rank; st.shared::cluster.u32 [%r5], %t; ld.shared::cluster.u32 %r4, [%mine];";
    assert_eq!(clean(own), (0..256).map(|i| i % 64).collect::<Vec<_>>());
    let atomic = format!(
        "{FILL}{SYNC} and.b32 %r5, %peers, 0xffffff00; atom.shared::cluster.add.u32 %r6, [%r5], 2; {SYNC} ld.shared.u32 %r4, [0];"
    );
    assert_eq!(clean(&atomic), [7 + 128; 256]);
    // Other spellings of the barrier.
    let plain = "barrier.cluster.arrive; barrier.cluster.wait;";
    assert_eq!(clean(&format!("{FILL}{plain}{SEND}{plain}{READ}")), sent());
}

#[test]
fn only_a_barrier_of_the_cluster_orders_its_blocks() {
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;";
    let (arrive, wait) = ("barrier.cluster.arrive.release.aligned;", "barrier.cluster.wait.acquire.aligned;");
    for (between, after) in [("", ""), ("bar.sync 0;", ""), (relaxed, ""), (arrive, wait)] {
        let report = caught(&format!("{FILL}{SYNC}{SEND}{between}{READ}{after}{SYNC}"), Kind::Race);
        assert!(report.detail.contains("of the cluster"), "{report}");
    }
    // A block that overwrites what the peer may still read.
    let read_peer = "ld.shared::cluster.u32 %r4, [%peers];";
    caught(&format!("{FILL}{SYNC}{read_peer}{FILL}{SYNC}"), Kind::Race);
    clean(&format!("{FILL}{SYNC}{read_peer}{SYNC}{FILL}{SYNC}"));
    // One block only reads and the other only writes or sends. Who comes first depends on the block.
    for [one, other] in [["@%p2", "@!%p2"], ["@!%p2", "@%p2"]] {
        let last = format!("setp.eq.and.u32 %p4, %t, 32, {}; @%p4", &one[1..]);
        let send = format!("{last} st.shared::cluster.u32 [%peers], 1;");
        caught(&format!("{FILL}{SYNC} {last} {read_peer} {other} {FILL}{SYNC}"), Kind::Race);
        caught(&format!("{FILL}{SYNC} {send} {relaxed} {other} {READ}{SYNC}"), Kind::Race);
    }
    // What was written between arriving and waiting is not in the others' past.
    let late =
        format!("{FILL}{SYNC} barrier.cluster.arrive.release.aligned; {SEND} barrier.cluster.wait.acquire.aligned;");
    caught(&format!("{late}{READ}{SYNC}"), Kind::Race);
    // The same holds for global memory; other clusters are never ordered.
    let global = |between: &str| format!("@%p3 st.global.u32 [%g], 5; {between} ld.global.u32 %r4, [%g]; {SYNC}");
    let one = |body: &str, seed| launch_with(body, &shape(2), &Options { seed, ..Options::default() });
    assert_eq!(one(&global(SYNC), 3).unwrap(), [5; 128]);
    for (body, blocks) in [(global(""), 2), (global(SYNC), 4)] {
        let error = launch_with(&body, &shape(blocks), &Options::default());
        assert!(matches!(&error, Err(Error::Kernel(report)) if report.kind == Kind::Race), "{error:?}");
    }
}

#[test]
fn a_block_stays_until_no_other_can_reach_it() {
    for access in ["st.shared::cluster.u32 [%peers], %t;", "ld.shared::cluster.u32 %r4, [%peers];"] {
        caught(&format!("{FILL}{SYNC}{access}"), Kind::BlockAbsent);
        caught(&format!("{FILL}{SYNC}{access} barrier.cluster.arrive.release.aligned;"), Kind::BlockAbsent);
        clean(&format!("{FILL}{SYNC}{access}{SYNC}"));
    }
    // The same where only one block reaches for the other, before or after that one's exit.
    caught(&format!("{FILL}{SYNC} @%p2 ld.shared::cluster.u32 %r4, [%peers];"), Kind::BlockAbsent);
    // Nor may it be reached before it is known to have started.
    for access in ["st.shared::cluster.u32 [%peers], %t;", "ld.shared::cluster.u32 %r4, [%peers];"] {
        caught(&format!("{FILL}{access}{SYNC}"), Kind::BlockAbsent);
    }
}

#[test]
fn addresses_of_other_blocks_are_checked() {
    let report = caught(&format!("{FILL}{SYNC} ld.shared.u32 %r4, [%peers]; {SYNC}"), Kind::OutOfBounds);
    assert_eq!(report.opcode, "ld.shared.u32");
    caught(&format!("{FILL}{SYNC} ld.shared::cluster.u32 %r4, [%peers+2048]; {SYNC}"), Kind::OutOfBounds);
    caught(&format!("{FILL}{SYNC} ld.shared::cluster.u32 %r4, [%peers+2]; {SYNC}"), Kind::Misaligned);
    caught("mapa.shared::cluster.u32 %r5, %mine, 2;", Kind::BadOperand);
}

#[test]
fn the_barrier_of_the_cluster_is_used_in_turn() {
    let arrive = "barrier.cluster.arrive.release.aligned;";
    caught(&format!("setp.lt.u32 %p4, %t, 16; @%p4 {arrive}"), Kind::DivergentBarrier);
    caught(&format!("setp.lt.u32 %p4, %t, 16; @!%p4 bra END; {SYNC} END:"), Kind::DivergentBarrier);
    caught(&format!("{arrive}{arrive}"), Kind::BadOperand);
    caught("barrier.cluster.wait.acquire.aligned;", Kind::BadOperand);
    // Nobody waits for threads that have exited.
    clean(&format!("@%p2 st.global.u32 [%out], %r4; @%p2 exit; {SYNC}"));
    // A block that waits at a barrier of its own keeps the cluster waiting.
    caught(
        &format!("@!%p2 bra ON; bar.sync 1, 64; setp.lt.u32 %p4, %t, 32; @%p4 bar.sync 2, 64; ON: {SYNC}"),
        Kind::Deadlock,
    );
}

#[test]
fn launches_of_clusters_that_cannot_be() {
    let bad = |shape: Shape, body: &str, why: &str| match launch_with(body, &shape, &Options::default()) {
        Err(Error::Launch(message)) => assert!(message.contains(why), "{message}"),
        other => panic!("{why}: {other:?}"),
    };
    bad(shape(3), "", "no multiple");
    bad(Shape { cluster: [17, 1, 1], grid: [17, 1, 1], ..shape(2) }, "", "at most 16");
    bad(Shape { cluster: [0, 1, 1], ..shape(2) }, "", "at most 16");
}

// ---- mbarrier

/// The first thread of each block makes a barrier for so many arrivals, and the cluster learns of it.
fn made(count: u32) -> String {
    format!("@%p1 mbarrier.init.shared.b64 [full], {count}; fence.mbarrier_init.release.cluster; {SYNC}")
}

fn wait(parity: u32) -> String {
    format!("W{parity}: mbarrier.try_wait.parity.shared::cta.b64 %p5, [%bar], {parity}; @!%p5 bra W{parity};")
}

#[test]
fn a_barrier_in_shared_memory_hands_on_what_was_done_before() {
    // The second warp arrives, the first waits and reads what the second wrote.
    let other = "xor.b32 %r5, %mine, 128; setp.lt.u32 %p4, %t, 32;";
    let arrive = "@!%p4 mbarrier.arrive.shared.b64 %rd4, [%bar];";
    let body = |arrive: &str, wait: &str| {
        format!(
            "{}{other} @!%p4 st.shared.u32 [%mine], %t; {arrive} @!%p4 bra END; {wait} ld.shared.u32 %r4, [%r5]; END:",
            made(32)
        )
    };
    let expected: Vec<u32> = (0..256).map(|i| if i % 64 < 32 { i % 64 + 32 } else { 0 }).collect();
    assert_eq!(clean(&body(arrive, &wait(0))), expected);
    let counted =
        "setp.eq.u32 %p3, %t, 32; bar.warp.sync -1; @%p3 mbarrier.arrive.release.cta.shared::cta.b64 _, [full], 32;";
    assert_eq!(clean(&body(counted, &wait(0))), expected);
    caught(&body("@!%p4 mbarrier.arrive.relaxed.cta.shared.b64 _, [%bar];", &wait(0)), Kind::Race);
    // Nobody has waited: the peer's write comes before or after by chance.
    let unready = format!(
        "{}{other} @!%p4 st.shared.u32 [%mine], %t; bar.sync 0; @!%p4 st.shared.u32 [%mine], 1; {arrive} @%p4 ld.shared.u32 %r4, [%r5];",
        made(32)
    );
    caught(&unready, Kind::Race);
    // The phase before is over already, so that such a wait lets everybody through.
    let early = format!(
        "{}{other} @!%p4 st.shared.u32 [%mine], %t; bar.sync 0; @!%p4 st.shared.u32 [%mine], 1; {arrive} @!%p4 bra END; {} ld.shared.u32 %r4, [%r5]; END:",
        made(33),
        wait(1)
    );
    caught(&early, Kind::Race);
}

#[test]
fn an_arrival_releases_nothing_that_comes_after_it() {
    // The second warp writes again after it has arrived.
    let late = format!(
        "{} xor.b32 %r5, %mine, 128; setp.lt.u32 %p4, %t, 32; {FILL} bar.sync 0; @%p4 bra ON;
         mbarrier.arrive.shared.b64 _, [%bar]; st.shared.u32 [%mine], %t; bra END; ON: {} ld.shared.u32 %r4, [%r5]; END:",
        made(32),
        wait(0)
    );
    caught(&late, Kind::Race);
    // A plain store after one that the barrier announces.
    let plain = "st.shared::cluster.u32 [%peers+512], 1;";
    let both = |store: &str, after: &str| {
        let body = stored("", &format!("{store}{after}"), &wait(0));
        body.replace(FILL, &format!("{FILL} st.shared.u32 [%mine+512], 7;"))
            .replace(READ, "ld.shared.u32 %r4, [%mine+512];")
    };
    caught(&both(STORE, plain), Kind::Race);
    assert_eq!(clean(&both(plain, STORE)), [1; 256]);
}

#[test]
fn phases_follow_each_other() {
    // Each thread arrives twice and waits for its own arrival by the state that it got.
    let wait_state =
        |label: &str| format!("{label}: mbarrier.test_wait.shared.b64 %p5, [%bar], %rd4; @!%p5 bra {label};");
    let body = format!(
        "{} st.shared.u32 [%mine], %t; mbarrier.arrive.shared.b64 %rd4, [%bar]; {} xor.b32 %r5, %mine, 128; ld.shared.u32 %r4, [%r5];
         mbarrier.arrive.shared.b64 %rd4, [full]; {} st.shared.u32 [%mine], 1;",
        made(64),
        wait_state("A"),
        wait_state("B")
    );
    assert_eq!(clean(&body), (0..256).map(|i| (i % 64) ^ 32).collect::<Vec<_>>());
    // The arrival of a remote thread counts, and releases.
    let remote = format!(
        "{FILL}{} {SEND} mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%their]; {} {READ} {SYNC}",
        made(64),
        wait(0)
    );
    assert_eq!(clean(&remote), sent());
}

#[test]
fn barriers_in_shared_memory_are_used_rightly() {
    let init = "@%p1 mbarrier.init.shared.b64 [full], 64;";
    // Nobody but the first thread knows of it yet.
    let unready = launch(&format!("{init} mbarrier.arrive.shared.b64 _, [full];"), 0);
    assert!(matches!(&unready, Err(Error::Kernel(report)) if report.kind == Kind::Race), "{unready:?}");
    caught("mbarrier.arrive.shared.b64 _, [full];", Kind::Uninitialised);
    caught("@%p1 st.shared.u64 [full], %rd1; bar.sync 0; mbarrier.arrive.shared.b64 _, [full];", Kind::BadOperand);
    caught(&format!("{} mbarrier.arrive.shared.b64 _, [full], 65;", made(64)), Kind::BadOperand);
    caught("@%p1 mbarrier.init.shared.b64 [full], 0;", Kind::BadOperand);
    caught("@%p1 mbarrier.init.shared.b64 [full+4], 1;", Kind::Misaligned);
    caught(
        &format!(
            "{} bar.sync 0; @%p1 mbarrier.inval.shared.b64 [full]; bar.sync 0; mbarrier.arrive.shared.b64 _, [full];",
            made(64)
        ),
        Kind::BadOperand,
    );
    // An arrival too few, or bytes that never come.
    caught(&format!("{} mbarrier.arrive.shared.b64 _, [full]; {}", made(65), wait(0)), Kind::Deadlock);
    let report =
        caught(&format!("{} mbarrier.arrive.expect_tx.shared.b64 _, [full], 4; {}", made(64), wait(0)), Kind::Deadlock);
    assert!(report.opcode.starts_with("mbarrier.try_wait") || report.opcode == "bra", "{report}");
}

// ---- st.async

/// Each block expects a word from each of the next block's threads, and waits for them.
fn stored(before: &str, store: &str, after: &str) -> String {
    let expect = "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [full], 256;";
    format!("{FILL}{} {expect} {before} mad.lo.u32 %r2, %rank, 1000, %t; {store} {after} {READ} {SYNC}", made(1))
}

const STORE: &str = "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%peers], %r2, [%their];";

#[test]
fn stores_beside_the_thread_are_there_after_the_wait() {
    assert_eq!(clean(&stored("", STORE, &wait(0))), sent());
    let weak = STORE.replace("st.async", "st.async.weak");
    assert_eq!(clean(&stored("", &weak, &wait(0))), sent());
    // Four words from every fourth thread, in one or two pieces.
    let fourth =
        "and.b32 %r5, %t, 3; setp.eq.u32 %p4, %r5, 0; add.u32 %r5, %r2, 1; add.u32 %r6, %r2, 2; add.u32 %r7, %r2, 3;";
    let four =
        "@%p4 st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%peers], {%r2, %r5, %r6, %r7}, [%their];";
    assert_eq!(clean(&stored("", &format!("{fourth}{four}"), &wait(0))), sent());
    let two = "mov.b64 %rd4, {%r2, %r5}; mov.b64 %rd5, {%r6, %r7};
        @%p4 st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%peers], {%rd4, %rd5}, [%their];";
    assert_eq!(clean(&stored("", &format!("{fourth}{two}"), &wait(0))), sent());
    // To the own block.
    let own = "mapa.shared::cluster.u32 %r5, %mine, %rank; mapa.shared::cluster.u32 %r6, %bar, %rank;
        st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r5], %r2, [%r6];";
    assert_eq!(clean(&stored("", own, &wait(0))), (0..256).map(|i| i / 64 % 2 * 1000 + i % 64).collect::<Vec<_>>());
}

#[test]
fn nothing_but_the_wait_makes_such_a_store_seen() {
    let report = caught(&stored("", STORE, ""), Kind::Race);
    assert_eq!(report.opcode.split('.').next(), Some(if report.detail.starts_with("reads") { "ld" } else { "st" }));
    caught(&stored("", STORE, "bar.sync 0;"), Kind::Race);
    // Not even a barrier of the cluster.
    let report = caught(&stored("", STORE, SYNC), Kind::Race);
    assert_eq!(report.opcode, "ld.shared.u32");
    // A wait for the phase before.
    caught(&stored("", STORE, &wait(1)), Kind::Race);
    // Nor has it happened yet for whoever stored it, or while bytes are missing.
    let own = "mapa.shared::cluster.u32 %r5, %mine, %rank; mapa.shared::cluster.u32 %r6, %bar, %rank;
        st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r5], %r2, [%r6];";
    caught(&stored("", own, ""), Kind::Race);
    caught(&stored("", STORE, SYNC).replace(", 256;", ", 260;"), Kind::Race);
    caught(&stored("", own, "").replace(", 256;", ", 260;"), Kind::Race);
    // In a block of its own, too, a barrier says nothing of what is beside the threads.
    for after in ["bar.sync 0;", SYNC] {
        let alone = Shape { cluster: [1; 3], ..shape(1) };
        let error = launch_with(&stored("", own, after), &alone, &Options::default());
        assert!(matches!(&error, Err(Error::Kernel(report)) if report.kind == Kind::Race), "{error:?}");
    }
    // A single warp that has waited can tell the other by a barrier.
    let first = format!("setp.lt.u32 %p4, %t, 32; @!%p4 bra ON; {} ON: ", wait(0));
    clean(&stored("", STORE, &format!("{first} bar.sync 0;")));
    caught(&stored("", STORE, &first), Kind::Race);
    // The block must still be there when the bytes come.
    let last = stored("", STORE, &wait(0));
    let unsettled = last.replace(&wait(0), "").replace(READ, "");
    caught(unsettled.strip_suffix(SYNC).unwrap().trim_end(), Kind::BlockAbsent);
}

#[test]
fn such_stores_are_checked_like_any_other() {
    caught(&stored("", &STORE.replace("[%their]", "[%bar]"), &wait(0)), Kind::BadOperand);
    caught(&stored("", &STORE.replace("[%peers]", "[%peers+2048]"), &wait(0)), Kind::OutOfBounds);
    caught(&stored("", &STORE.replace("[%their]", "[%their+8]"), &wait(0)), Kind::Uninitialised);
    // Too many bytes, so that the phase does not end.
    caught(&stored("", &STORE.repeat(2), &wait(0)), Kind::Race);
    caught(
        &stored("", &STORE.replace("[%peers]", "[%peers+512]"), &wait(0)).replace(", 256;", ", 260;"),
        Kind::Deadlock,
    );
    // The peer may still read what the store overwrites.
    caught(&stored("ld.shared.u32 %r4, [%mine];", STORE, &wait(0)), Kind::Race);
    clean(&stored(&format!("ld.shared.u32 %r4, [%mine]; {SYNC}"), STORE, &wait(0)));
}

#[test]
fn without_the_sanitizer_a_missing_wait_shows_in_the_numbers() {
    let options = Options { sanitize: false, ..Options::default() };
    let one = |body: &str| launch_with(body, &shape(2), &options).unwrap();
    // The first block's threads read before the second has sent anything.
    assert_eq!(one(&stored("", STORE, ""))[..64], [7; 64]);
    assert_eq!(one(&stored("", STORE, &wait(0))), sent()[..128]);
}

#[test]
fn unknown_forms_stop_with_their_name() {
    for opcode in [
        "barrier.cluster.arrive.acquire",
        "barrier.cluster.wait.relaxed",
        "mbarrier.arrive.noComplete.shared.b64",
        "mbarrier.pending_count.b64",
        "mbarrier.test_wait.parity.release.cta.shared.b64",
        "st.async.shared::cluster.b32",
        "mapa.global.u32",
        "fence.proxy.tensormap",
        "clusterlaunchcontrol.query_cancel",
    ] {
        match launch(&format!("{opcode} %r4, [%bar], %r1;"), 0) {
            Err(Error::UnknownOpcode { opcode: named, .. }) => assert_eq!(named, opcode),
            other => panic!("{opcode}: {other:?}"),
        }
    }
}

#[test]
fn a_long_calculation_between_two_questions_is_no_deadlock() {
    // All threads arrive. The first warp asks, counts for long, and only then makes the last arrival that is missing.
    let body = format!(
        "{} setp.lt.u32 %p4, %t, 32; mbarrier.arrive.shared.b64 _, [full]; @!%p4 bra END;
         AGAIN: mbarrier.try_wait.parity.shared.b64 %p5, [full], 0; @%p5 bra END;
         mov.u32 %r5, 0; COUNT: add.u32 %r5, %r5, 1; setp.lt.u32 %p5, %r5, 40000; @%p5 bra COUNT;
         setp.eq.u32 %p5, %t, 0; @%p5 mbarrier.arrive.shared.b64 _, [full]; bar.warp.sync -1; bra AGAIN; END: mov.u32 %r4, 9;",
        made(65)
    );
    for seed in [0, 1, 2] {
        let got = launch_with(&body, &shape(2), &Options { seed, ..Options::default() });
        assert_eq!(got.unwrap_or_else(|error| panic!("seed {seed}: {error}")), [9; 128]);
    }
}
