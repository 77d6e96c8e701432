//! Copies that go on beside the thread (`cp.async`): what they bring, and every way to use them wrongly.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Report, Shape};

/// 64 threads; `%from` and `%to` are a thread's 16 bytes of the buffer `g` and of shared memory, `%other` the shared ones of
/// a thread in the other warp.
const HEAD: &str = ".version 9.0 .target sm_80 .address_size 64
.visible .entry k(.param .u64 pg, .param .u64 pout, .param .u64 pfresh) {
.reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .b64 %g; .reg .b64 %out; .reg .b64 %fresh; .reg .b64 %from;
.reg .b32 %t; .reg .b32 %to; .reg .b32 %other;
.shared .align 16 .b8 s[2048];
ld.param.u64 %g, [pg]; ld.param.u64 %out, [pout]; ld.param.u64 %fresh, [pfresh];
mov.u32 %t, %tid.x; mul.wide.u32 %rd1, %t, 16; add.s64 %from, %g, %rd1; cvt.u32.u64 %to, %rd1;
xor.b32 %other, %to, 512; mul.wide.u32 %rd1, %t, 4; add.s64 %out, %out, %rd1; mov.u32 %r4, 0;
setp.eq.u32 %p1, %t, 0; setp.lt.u32 %p2, %t, 32;
";

fn launch(body: &str, options: &Options) -> Result<Vec<f32>, Error> {
    let module = Module::parse(&format!("{HEAD}{body}\nst.global.u32 [%out], %r4; ret; }}"))?;
    let mut memory = Memory::new();
    let g = memory.alloc_f32("g", &(0..512).map(|i| i as f32).collect::<Vec<_>>());
    let out = memory.alloc("out", 256);
    let fresh = memory.alloc("fresh", 1024);
    let shape = Shape { grid: [2, 1, 1], block: [64, 1, 1], ..Shape::default() };
    let args = [Arg::U64(g), Arg::U64(out), Arg::U64(fresh)];
    match module.launch("k", &shape, &args, &mut memory, options) {
        // Both blocks write the output, which is a race that nothing here is about.
        Err(Error::Kernel(report)) if report.opcode == "st.global.u32" && report.detail.contains("of out") => {}
        other => drop(other?),
    }
    memory.read_f32(out, 64)
}

#[track_caller]
fn clean(body: &str) -> Vec<f32> {
    let run = |seed| launch(body, &Options { seed, ..Options::default() }).unwrap_or_else(|error| panic!("{error}"));
    let first = run(0);
    assert_eq!((run(1), run(7)), (first.clone(), first.clone()));
    first
}

#[track_caller]
fn caught(body: &str, kind: Kind) -> Report {
    let mut last = None;
    for seed in [7, 1, 0] {
        match launch(body, &Options { seed, ..Options::default() }) {
            Err(Error::Kernel(report)) => {
                assert_eq!(report.kind, kind, "seed {seed}: {report}");
                last = Some(*report);
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    last.unwrap()
}

const COPY: &str = "cp.async.cg.shared.global [%to], [%from], 16;";
const CLOSE: &str = "cp.async.commit_group;";
const WAIT: &str = "cp.async.wait_group 0;";
const READ: &str = "ld.shared.u32 %r4, [%to+4];";
const READ_OTHER: &str = "ld.shared.u32 %r4, [%other+4];";

/// The second of each thread's four numbers.
fn own() -> Vec<f32> {
    (0..64).map(|t| (4 * t + 1) as f32).collect()
}

#[test]
fn copies_bring_their_bytes() {
    assert_eq!(clean(&format!("{COPY}{CLOSE}{WAIT}{READ}")), own());
    assert_eq!(clean(&format!("{COPY} cp.async.wait_all; {READ}")), own());
    let hinted = "cp.async.cg.shared.global.L2::128B [%to], [%from], 16;";
    assert_eq!(clean(&format!("{hinted}{CLOSE}{WAIT}{READ}")), own());
    let others = clean(&format!("{COPY}{CLOSE}{WAIT} bar.sync 0; {READ_OTHER}"));
    assert_eq!(others, (0..64).map(|t| (4 * (t ^ 32) + 1) as f32).collect::<Vec<_>>());
    for bytes in [4, 8] {
        let copy = format!("cp.async.ca.shared::cta.global [%to], [%from], {bytes};");
        let read = format!("ld.shared.u32 %r4, [%to+{}];", bytes - 4);
        let expected: Vec<f32> = (0..64).map(|t| (4 * t + bytes / 4 - 1) as f32).collect();
        assert_eq!(clean(&format!("{copy}{CLOSE}{WAIT}{read}")), expected);
        caught(&format!("{copy}{CLOSE}{WAIT} ld.shared.u32 %r4, [%to+{bytes}];"), Kind::Uninitialised);
    }
}

#[test]
fn what_is_not_copied_is_zero() {
    // Threads copy 4 or 8 bytes: the second number is there for the odd ones.
    let copy = "and.b32 %r1, %t, 1; mad.lo.u32 %r1, %r1, 4, 4; cp.async.ca.shared.global [%to], [%from], 16, %r1;";
    let expected: Vec<f32> = (0..64).map(|t| if t % 2 == 1 { (4 * t + 1) as f32 } else { 0.0 }).collect();
    assert_eq!(clean(&format!("{copy}{CLOSE}{WAIT}{READ}")), expected);
    // Nothing is read where nothing is copied, so that the address need not be one.
    let none = "mov.u64 %rd3, 0; cp.async.ca.shared.global [%to], [%rd3], 16, 0;";
    assert_eq!(clean(&format!("{none}{CLOSE}{WAIT}{READ}")), vec![0.0; 64]);
    caught("cp.async.ca.shared.global [%to], [%from], 8, 16;", Kind::BadOperand);
}

#[test]
fn a_read_before_the_wait_is_a_race() {
    for body in [
        format!("{COPY}{CLOSE}{READ}"),
        format!("{COPY}{READ}"),
        // The wait is for closed groups only.
        format!("{COPY}{WAIT}{READ}"),
        // A barrier orders what threads do, not what goes on beside them.
        format!("{COPY}{CLOSE} bar.sync 0; {READ}"),
        format!("{COPY}{CLOSE} bar.sync 0; {READ_OTHER}"),
        // Only the first warp waits.
        format!("{COPY}{CLOSE} @%p2 {WAIT} bar.sync 0; {READ_OTHER}"),
    ] {
        let report = caught(&body, Kind::Race);
        assert!(report.detail.contains("still under way"), "{report}");
        assert_eq!(report.opcode, "ld.shared.u32", "{report}");
    }
}

#[test]
fn a_wait_is_not_a_barrier() {
    // The other thread's copy is under way, or done but unordered with the read: by schedule.
    caught(&format!("{COPY}{CLOSE} bar.sync 0; {WAIT}{READ_OTHER}"), Kind::Race);
    // Nor a warp barrier.
    let neighbour = "xor.b32 %r1, %to, 16; ld.shared.u32 %r4, [%r1];";
    caught(&format!("{COPY}{CLOSE}{WAIT}{neighbour}"), Kind::Race);
    clean(&format!("{COPY}{CLOSE}{WAIT} bar.warp.sync -1; {neighbour}"));
}

#[test]
fn groups_are_waited_for_in_turn() {
    let second = "cp.async.cg.shared.global [%to+1024], [%from], 16;";
    let read_second = "ld.shared.u32 %r4, [%to+1028];";
    let two = format!("{COPY}{CLOSE}{second}{CLOSE}");
    assert_eq!(clean(&format!("{two} cp.async.wait_group 1; {READ}")), own());
    assert_eq!(clean(&format!("{two} cp.async.wait_group 0; {read_second}")), own());
    caught(&format!("{two} cp.async.wait_group 1; {read_second}"), Kind::Race);
    caught(&format!("{two} cp.async.wait_group 2; {READ}"), Kind::Race);
    // An empty group counts, too.
    clean(&format!("{COPY}{CLOSE}{CLOSE} cp.async.wait_group 1; {READ}"));
    // Groups are each thread's own: the second warp has closed one more, so that its first is done.
    let uneven = format!("{COPY}{CLOSE} @!%p2 {CLOSE} cp.async.wait_group 1; @!%p2 {READ}");
    clean(&uneven);
    caught(&format!("{uneven} @%p2 {READ}"), Kind::Race);
}

#[test]
fn nothing_may_be_written_where_a_copy_goes() {
    caught(&format!("{COPY}{CLOSE} st.shared.u32 [%to], %t; {WAIT}"), Kind::Race);
    caught(&format!("{COPY}{COPY}"), Kind::Race);
    caught(&format!("{COPY} bar.sync 0; st.shared.u32 [%other], %t;"), Kind::Race);
    // The copy itself must not overtake others' reads of what it overwrites.
    let fill = "st.shared.u32 [%to+4], %t; bar.sync 0;";
    caught(&format!("{fill}{READ_OTHER}{COPY}"), Kind::Race);
    clean(&format!("{fill}{READ_OTHER} bar.sync 0; {COPY}"));
    // Nor an own write, which comes before it.
    clean(&format!("st.shared.u32 [%to+4], %t; {COPY}{CLOSE}{WAIT}{READ}"));
}

#[test]
fn the_source_stays_as_it_is() {
    // The second half of the buffer is each thread's own in the first block.
    let own = "mov.u32 %r1, %ctaid.x; setp.ne.u32 %p3, %r1, 0; @%p3 exit;
        cp.async.ca.shared.global [%to], [%from+1024], 4; cp.async.commit_group; st.global.u32 [%from+1024], -1;";
    let report = caught(&format!("{own}{WAIT}"), Kind::Race);
    assert!(report.detail.contains("of g have changed while they were copied"), "{report}");
    clean(&own.replace("st.global", "cp.async.wait_all; st.global"));
}

#[test]
fn copies_are_checked_like_any_access() {
    caught("add.s64 %from, %from, 4; cp.async.cg.shared.global [%to], [%from], 16;", Kind::Misaligned);
    caught("cp.async.cg.shared.global [%to+8], [%from], 16;", Kind::Misaligned);
    caught("cp.async.cg.shared.global [%to+2048], [%from], 16;", Kind::OutOfBounds);
    caught("cp.async.cg.shared.global [%to], [%from+2048], 16;", Kind::OutOfBounds);
    caught("cp.async.cg.shared.global [%to], [%fresh], 16;", Kind::Uninitialised);
    for opcode in
        ["cp.async.bulk.commit_group", "cp.async.cg.shared.global.L2::cache_hint", "cp.async.ca.global.shared"]
    {
        match launch(&format!("{opcode} [%to], [%from], 16;"), &Options::default()) {
            Err(Error::UnknownOpcode { opcode: named, .. }) => assert_eq!(named, opcode),
            other => panic!("{opcode}: {other:?}"),
        }
    }
    let four = launch("cp.async.cg.shared.global [%to], [%from], 4;", &Options::default());
    assert!(matches!(four, Err(Error::Parse { .. })));
}

#[test]
fn without_the_sanitizer_a_missing_wait_shows_in_the_numbers() {
    let options = Options { sanitize: false, ..Options::default() };
    let fill = "mov.b32 %r1, 0fC0000000; st.shared.u32 [%to+4], %r1;";
    assert_eq!(launch(&format!("{fill}{COPY}{CLOSE}{READ}"), &options).unwrap(), vec![-2.0; 64]);
    assert_eq!(launch(&format!("{fill}{COPY}{CLOSE}{WAIT}{READ}"), &options).unwrap(), own());
}
