//! Kernels with one bug each: exactly that bug is reported, whatever the schedule, and the repaired kernel runs clean.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Report, Shape};

/// Registers and addresses that the bodies use: `%g` is a buffer of 1024 bytes, `%h` one that was never written.
const HEAD: &str = ".version 9.0 .target sm_75 .address_size 64
.file 1 \"bug.cu\"
.visible .entry bug(.param .u64 pg, .param .u64 ph) {
.reg .pred %p<4>; .reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .b64 %g; .reg .b64 %h;
.reg .b32 %t; .reg .b32 %c; .reg .b64 %mine; .reg .b64 %next;
.shared .align 8 .b8 s[1024];
ld.param.u64 %g, [pg]; ld.param.u64 %h, [ph];
mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x; setp.eq.u32 %p1, %t, 0; setp.lt.u32 %p2, %t, 16; setp.lt.u32 %p3, %t, 32;
mul.wide.u32 %mine, %t, 4; xor.b32 %r9, %t, 33; mul.wide.u32 %next, %r9, 4;
.loc 1 40 0
";

fn run_with(body: &str, grid: u32, options: &Options) -> Result<(), Error> {
    let module = Module::parse(&format!("{HEAD}{body}\nret; }}"))?;
    let mut memory = Memory::new();
    let written = memory.alloc_f32("g", &[0.0; 256]);
    let fresh = memory.alloc("h", 1024);
    let shape = Shape { grid: [grid, 1, 1], block: [64, 1, 1], ..Shape::default() };
    module.launch("bug", &shape, &[Arg::U64(written), Arg::U64(fresh)], &mut memory, options).map(drop)
}

fn run(body: &str, grid: u32, seed: u64) -> Result<(), Error> {
    run_with(body, grid, &Options { seed, max_steps: 100_000, ..Options::default() })
}

/// The report of a body's bug, the same in kind and line under three schedules.
#[track_caller]
fn caught(body: &str, grid: u32, kind: Kind, line: u32) -> Report {
    let mut last = None;
    for seed in [5, 1, 0] {
        match run(body, grid, seed) {
            Err(Error::Kernel(report)) => {
                assert_eq!((report.kind, report.line), (kind, line), "seed {seed}: {report}");
                assert_eq!((report.kernel.as_str(), report.file.as_deref()), ("bug", Some("bug.cu")));
                last = Some(*report);
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    last.unwrap()
}

#[track_caller]
fn clean(body: &str, grid: u32) {
    for seed in [0, 1, 5] {
        run(body, grid, seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// Statements that start at a source line of their own.
fn at(line: u32, body: &str) -> String {
    format!("\n.loc 1 {line} 0\n{body}\n")
}

#[test]
fn a_missing_barrier_is_a_race() {
    let fill =
        "mov.u64 %rd1, s; add.s64 %rd2, %rd1, %mine; add.s64 %rd3, %rd1, %next; st.shared.u32 [%rd2], %t; bar.sync 0;";
    // Every thread overwrites its own word after the neighbour in the other warp has read it: that needs a barrier.
    let (read, write) = ("ld.shared.u32 %r1, [%rd3];", "st.shared.u32 [%rd2], %r1;");
    clean(&format!("{fill}{read} bar.sync 0; {write}"), 2);
    caught(&format!("{fill}{}", at(50, &format!("{read}{write}"))), 2, Kind::Race, 50);
}

#[test]
fn two_warps_that_write_one_word_race() {
    let report = caught(&at(51, "@%p2 mov.u32 %t, 0; mov.u32 %r1, 0; st.shared.u32 [s], %r1;"), 1, Kind::Race, 51);
    assert!(report.detail.contains("writes 4 bytes at 0 of shared memory"), "{report}");
    // One lane of each warp, so that the two warps meet there.
    let body = "and.b32 %r1, %t, 31; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [s], %t;";
    caught(&at(52, body), 1, Kind::Race, 52);
    clean("and.b32 %r1, %t, 31; setp.eq.u32 %p1, %r1, 0; and.pred %p2, %p1, %p3; @%p2 st.shared.u32 [s], %t;", 1);
}

#[test]
fn lanes_of_a_warp_need_a_warp_barrier() {
    let store = "@!%p3 bra END; mov.u64 %rd1, s; add.s64 %rd2, %rd1, %mine; st.shared.u32 [%rd2], %t;";
    let load = "xor.b32 %r1, %t, 1; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; ld.shared.u32 %r2, [%rd3];";
    clean(&format!("{store} bar.warp.sync -1; {load} END:"), 1);
    caught(&format!("{store}{} END:", at(53, load)), 1, Kind::Race, 53);
}

#[test]
fn bytes_beside_each_other_are_no_race_and_the_same_byte_is() {
    let own = "cvt.u64.u32 %rd1, %t; mov.u64 %rd2, s; add.s64 %rd2, %rd2, %rd1; st.shared.u8 [%rd2], %t;";
    clean(own, 1);
    let half = "shr.u32 %r1, %t, 1; cvt.u64.u32 %rd1, %r1; mov.u64 %rd2, s; add.s64 %rd2, %rd2, %rd1; st.shared.u8 [%rd2], %t;";
    caught(&at(54, half), 1, Kind::Race, 54);
}

#[test]
fn named_barriers_order_only_those_who_meet() {
    // Each warp writes, both meet at barrier 1, then each reads the other's words.
    let fill = "mov.u64 %rd1, s; add.s64 %rd2, %rd1, %mine; add.s64 %rd3, %rd1, %next; st.shared.u32 [%rd2], %t;";
    clean(&format!("{fill} bar.sync 1, 64; ld.shared.u32 %r1, [%rd3];"), 1);
    // A barrier of each warp's own orders nothing between them: by schedule the read or the write is the later one.
    let own = "bar.sync 0; shr.u32 %r1, %t, 5; add.s32 %r1, %r1, 1; st.shared.u32 [%rd2], %t; bar.sync %r1, 32;";
    caught(&at(55, &format!("{fill} {own} ld.shared.u32 %r2, [%rd3];")), 1, Kind::Race, 55);
}

#[test]
fn blocks_are_not_ordered() {
    let report = caught(&at(56, "@%p1 st.global.u32 [%g], %c;"), 2, Kind::Race, 56);
    assert!(report.detail.contains("of g"), "{report}");
    clean("@%p1 st.global.u32 [%g], %c;", 1);
    caught(&at(57, "@%p1 ld.global.u32 %r1, [%g]; @%p1 st.global.u32 [%g], %r1;"), 2, Kind::Race, 57);
    clean("ld.global.u32 %r1, [%g];", 3);
    clean("@%p1 red.global.add.u32 [%g], 1;", 3);
    caught(&at(58, "@%p1 red.global.add.u32 [%g], 1; @%p1 st.global.u32 [%g], 1;"), 2, Kind::Race, 58);
}

#[test]
fn the_last_block_may_read_what_all_have_written_if_there_is_a_fence() {
    let body = |fence: &str| {
        format!(
            "mul.wide.u32 %rd1, %c, 4; add.s64 %rd2, %g, %rd1; @%p1 st.global.u32 [%rd2+16], %c; {fence}
             mov.u32 %r1, 0; @%p1 atom.global.add.u32 %r1, [%g], 1; setp.eq.u32 %p2, %r1, 2; {}",
            at(
                59,
                "@%p2 ld.global.u32 %r2, [%g+16]; @%p2 ld.global.u32 %r2, [%g+20]; @%p2 ld.global.u32 %r2, [%g+24];"
            )
        )
    };
    clean(&body("membar.gl;"), 3);
    caught(&body(""), 3, Kind::Race, 59);
}

#[test]
fn accesses_out_of_bounds() {
    let report = caught(&at(60, "add.s64 %rd1, %g, %mine; ld.global.u32 %r1, [%rd1+772];"), 1, Kind::OutOfBounds, 60);
    assert_eq!((report.thread, report.opcode.as_str()), ([63, 0, 0], "ld.global.u32"));
    assert!(report.detail.contains("4 bytes at 1024 of g, which has 1024"), "{report}");
    clean("add.s64 %rd1, %g, %mine; ld.global.u32 %r1, [%rd1+768];", 1);
    let below = caught(&at(61, "@%p1 ld.global.u32 %r1, [%g+-4];"), 1, Kind::OutOfBounds, 61);
    assert!(below.detail.contains("at -4 of g"), "{below}");
    caught(&at(62, "@%p1 st.shared.u32 [s+1024], %t;"), 1, Kind::OutOfBounds, 62);
    caught(&at(63, "mov.u64 %rd1, 0; @%p1 st.global.u32 [%rd1], %t;"), 1, Kind::OutOfBounds, 63);
    caught(&at(64, ".local .align 4 .b8 l[8]; @%p1 st.local.u32 [l+8], %t;"), 1, Kind::OutOfBounds, 64);
    caught(&at(65, "@%p1 atom.global.add.u32 %r1, [%g+1024], 1;"), 1, Kind::OutOfBounds, 65);
}

#[test]
fn misaligned_accesses() {
    let report = caught(&at(66, "@%p1 ld.global.u32 %r1, [%g+2];"), 1, Kind::Misaligned, 66);
    assert_eq!(report.thread, [0, 0, 0]);
    caught(&at(67, "@%p1 ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%g+8];"), 1, Kind::Misaligned, 67);
    caught(&at(68, "@%p1 st.shared.u64 [s+4], %g;"), 1, Kind::Misaligned, 68);
    clean("@%p1 st.shared.u64 [s+8], %g;", 1);
}

#[test]
fn reads_of_what_nobody_has_written() {
    let report = caught(&at(69, "@%p1 ld.global.u32 %r1, [%h];"), 1, Kind::Uninitialised, 69);
    assert!(report.detail.contains("of h"), "{report}");
    caught(&at(70, "@%p1 ld.shared.u32 %r1, [s];"), 1, Kind::Uninitialised, 70);
    caught(&at(71, ".local .align 4 .b8 l[8]; ld.local.u32 %r1, [l];"), 1, Kind::Uninitialised, 71);
    caught(&at(72, "@%p1 atom.global.add.u32 %r1, [%h], 1;"), 1, Kind::Uninitialised, 72);
    caught(&at(73, "@%p1 st.global.u8 [%h], 1; @%p1 ld.global.u16 %r1, [%h];"), 1, Kind::Uninitialised, 73);
    clean("@%p1 st.global.u32 [%h], 1; @%p1 ld.global.u32 %r1, [%h];", 1);
    // What one block leaves in shared memory is not there for the next.
    let leave =
        "setp.eq.u32 %p2, %c, 0; and.pred %p2, %p2, %p1; @%p2 st.shared.u32 [s], %t; @%p1 ld.shared.u32 %r1, [s];";
    caught(&at(74, leave), 2, Kind::Uninitialised, 74);
}

#[test]
fn barriers_that_not_all_reach() {
    caught(&at(75, "@%p2 bar.sync 0;"), 1, Kind::DivergentBarrier, 75);
    caught(&at(76, "@!%p2 bra END; bar.sync 0; END:"), 1, Kind::DivergentBarrier, 76);
    let exited = caught(&at(77, "@%p3 bra END; bar.sync 0; END:"), 1, Kind::DivergentBarrier, 77);
    assert!(exited.detail.contains("32 of 64 threads at barrier 0, the others have exited"), "{exited}");
    clean("@%p3 bra FIRST; bar.sync 0; bra END; FIRST: bar.sync 0; END:", 1);
}

#[test]
fn warp_instructions_that_not_all_reach() {
    let half = "@!%p2 bra END; shfl.sync.bfly.b32 %r1, %t, 1, 31, ";
    caught(&at(78, &format!("{half} -1; END:")), 1, Kind::DivergentWarp, 78);
    clean(&format!("@!%p3 bra END; {half} 0xffff; END:"), 1);
    let far = "@!%p2 bra END; shfl.sync.bfly.b32 %r1, %t, 16, 31, 0xffff; END:";
    let report = caught(&at(79, far), 1, Kind::DivergentWarp, 79);
    assert!(report.detail.contains("reads lane 16"), "{report}");
    caught(&at(80, "@%p2 vote.sync.any.pred %p1, %p1, -1;"), 1, Kind::DivergentWarp, 80);
    caught(&at(81, "@%p2 bar.warp.sync -1;"), 1, Kind::DivergentWarp, 81);
    caught(&at(82, "bar.warp.sync 0xffff;"), 1, Kind::DivergentWarp, 82);
}

#[test]
fn deadlock_and_endless_loops() {
    let crossed =
        "@%p3 bra FIRST; bar.sync 1, 64; bar.sync 2, 64; bra END; FIRST: bar.sync 2, 64; bar.sync 1, 64; END:";
    caught(&at(83, crossed), 1, Kind::Deadlock, 83);
    caught(&at(84, "LOOP: bra LOOP;"), 1, Kind::StepLimit, 84);
}

#[test]
fn without_the_sanitizer_bounds_are_still_kept() {
    let options = Options { sanitize: false, ..Options::default() };
    run_with("@%p1 ld.global.u32 %r1, [%h]; st.shared.u32 [s], %t;", 2, &options).unwrap();
    let error = run_with("@%p1 ld.global.u32 %r1, [%h+1024];", 1, &options);
    assert!(matches!(error, Err(Error::Kernel(report)) if report.kind == Kind::OutOfBounds));
}

#[test]
fn a_report_reads_as_one_line() {
    let report = caught(&at(85, "@%p1 ld.global.u32 %r1, [%g+2];"), 1, Kind::Misaligned, 85);
    let text = report.to_string();
    assert!(
        text.starts_with("misaligned access: ld.global.u32 in bug (bug.cu:85), block (0, 0, 0), thread (0, 0, 0): "),
        "{text}"
    );
}

#[test]
fn a_warp_barrier_of_some_lanes_orders_only_those() {
    // Two half-warps, each with a barrier of its own between writing and reading.
    let halves = |read: &str| {
        format!(
            "@!%p3 bra END; mov.u64 %rd1, s; add.s64 %rd2, %rd1, %mine; st.shared.u32 [%rd2], %t;
             mov.u32 %r2, 0xffff; @!%p2 mov.u32 %r2, 0xffff0000; bar.warp.sync %r2; {read} END:"
        )
    };
    let at_distance = |distance: u32| {
        format!(
            "xor.b32 %r1, %t, {distance}; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; ld.shared.u32 %r3, [%rd3];"
        )
    };
    clean(&halves(&at_distance(1)), 1);
    caught(&halves(&at(90, &at_distance(16))), 1, Kind::Race, 90);
    // A second barrier, of all lanes, orders the halves.
    clean(&halves(&format!("bar.warp.sync -1; {}", at_distance(16))), 1);
    // Of what all lanes of a half have read, one lane may be overwritten after the half's barrier, not after another's.
    let overwrite = |lane: u32| {
        format!(
            "ld.shared.u32 %r4, [%rd2]; mov.u32 %r5, 0; @!%p2 ld.shared.u32 %r5, [s+64]; bar.warp.sync %r2; {}",
            at(91, &format!("setp.eq.u32 %p1, %t, {lane}; @%p1 st.shared.u32 [s+64], %t;"))
        )
    };
    clean(&halves(&overwrite(20)), 1);
    caught(&halves(&overwrite(3)), 1, Kind::Race, 91);
}

#[test]
fn what_an_atomic_learns_only_its_warp_knows_until_a_barrier() {
    // Thread 0 of each block writes a word, and by a counter the last block learns of the others' words. Its second
    // warp finds out by a counter of its own, which releases nothing, that it belongs to the last block.
    let body = |between: &str| {
        format!(
            "mul.wide.u32 %rd1, %c, 4; add.s64 %rd2, %g, %rd1; @!%p1 bra OTHERS;
             st.global.u32 [%rd2+16], %c; membar.gl; atom.global.add.u32 %r1, [%g], 1;
             OTHERS: {between} setp.eq.u32 %p2, %t, 32; mov.u32 %r2, 0; @%p2 atom.global.add.u32 %r2, [%g+8], 1;
             setp.eq.u32 %p3, %r2, 1; xor.b32 %r3, %c, 1; mul.wide.u32 %rd3, %r3, 4; add.s64 %rd3, %rd3, %g; {}",
            at(92, "@%p3 ld.global.u32 %r4, [%rd3+16];")
        )
    };
    clean(&body("bar.sync 0;"), 2);
    caught(&body(""), 2, Kind::Race, 92);
}

#[test]
fn all_blocks_that_read_a_word_count_when_another_writes_it() {
    // By the order of their arrival, two blocks read a word and tell of it, the third learns and overwrites it.
    let body = |first: &str| {
        format!(
            "@!%p1 bra END; atom.global.add.u32 %r1, [%g+4], 1;
             setp.eq.u32 %p2, %r1, 2; @%p2 bra LAST; ld.global.u32 %r2, [%g+64];
             setp.eq.u32 %p3, %r1, 0; @%p3 bra FIRST;
             membar.gl; red.global.add.u32 [%g], 1; bra END;
             FIRST: {first} bra END;
             LAST: atom.global.add.u32 %r3, [%g], 1; {} END:",
            at(93, "st.global.u32 [%g+64], %t;")
        )
    };
    clean(&body("membar.gl; red.global.add.u32 [%g], 1;"), 3);
    caught(&body(""), 3, Kind::Race, 93);
}

#[test]
fn barriers_that_are_not_aligned_count_threads() {
    // The halves of the first warp come to the barrier at different places.
    let parted = |barrier: &str| format!("@%p2 bra FIRST; {barrier} bra END; FIRST: {barrier} END:");
    clean(&parted("barrier.sync 1, 64;"), 1);
    clean(&parted("barrier.sync 0;"), 1);
    caught(&at(94, &parted("bar.sync 1, 64;")), 1, Kind::DivergentBarrier, 94);
    // 16 threads never come.
    let report = caught(&at(95, "@%p2 bra END; barrier.sync 1, 64; END:"), 1, Kind::DivergentBarrier, 95);
    assert!(report.detail.contains("48 of 64 threads at barrier 1"), "{report}");
    // It orders what the two warps do before and after it.
    let swap = |barrier: &str| {
        format!(
            "mov.u64 %rd1, s; add.s64 %rd2, %rd1, %mine; add.s64 %rd3, %rd1, %next; st.shared.u32 [%rd2], %t; {} {}",
            parted(barrier),
            at(97, "ld.shared.u32 %r1, [%rd3];")
        )
    };
    clean(&swap("barrier.sync 0;"), 1);
    // Lanes that meet at a barrier without the rest of their warp are not ordered with it.
    let apart =
        "setp.ge.u32 %p1, %t, 32; @%p1 bra END; mov.u64 %rd1, s; add.s64 %rd2, %rd1, %mine; st.shared.u32 [%rd2], %t;
                 xor.b32 %r1, %t, 16; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd1; barrier.arrive 1, 32;";
    caught(&format!("{apart} {} END:", at(98, "ld.shared.u32 %r4, [%rd3];")), 1, Kind::Race, 98);
}
