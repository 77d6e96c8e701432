//! Launches that may start before those before them have ended: what they may touch before they have waited, and that all wait.

use ptx_emulator::{Arg, Error, Kind, Memory, Module, Options, Report, Shape};

/// Kernels of two blocks of 64 threads. `%a` and `%b` are a thread's own word of two buffers; `%shift` is the next thread's of the
/// first, which another warp has for some.
const HEAD: &str = ".reg .pred %p<3>; .reg .b32 %r<4>; .reg .b64 %a; .reg .b64 %b; .reg .b64 %shift; .reg .b64 %rd<4>;
ld.param.u64 %a, [pa]; ld.param.u64 %b, [pb];
mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r1, %r1, 64, %r2; mul.wide.u32 %rd1, %r1, 4;
add.u32 %r3, %r1, 33; and.b32 %r3, %r3, 127; mul.wide.u32 %rd2, %r3, 4; add.s64 %shift, %a, %rd2;
add.s64 %a, %a, %rd1; add.s64 %b, %b, %rd1; setp.lt.u32 %p1, %r2, 8;
";

const WAIT: &str = "griddepcontrol.launch_dependents; griddepcontrol.wait;";
const WRITE: &str = "st.global.u32 [%a], %r1;";
const READ: &str = "ld.global.u32 %r3, [%shift]; st.global.u32 [%b], %r3;";
/// Every thread reads two words, so that each word has several readers.
const READ_TWICE: &str = "ld.global.u32 %r3, [%a]; ld.global.u32 %r3, [%shift];";

/// A launch: whether it is dependent, and its kernel.
type Step<'a> = (bool, &'a str);

fn run(steps: &[Step], seed: u64) -> Result<Vec<u32>, Error> {
    let mut memory = Memory::new();
    let a = memory.alloc_f32("a", &[0.0; 128]);
    let b = memory.alloc_f32("b", &[0.0; 128]);
    for (dependent, body) in steps {
        let text = format!(
            ".version 9.0 .target sm_90 .address_size 64\n.visible .entry k(.param .u64 pa, .param .u64 pb) {{{HEAD}{body} ret; }}"
        );
        let shape = Shape { grid: [2, 1, 1], block: [64, 1, 1], dependent: *dependent, ..Shape::default() };
        let options = Options { seed, ..Options::default() };
        Module::parse(&text)?.launch("k", &shape, &[Arg::U64(a), Arg::U64(b)], &mut memory, &options)?;
    }
    let bytes = memory.read(b, 512)?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect())
}

#[track_caller]
fn clean(steps: &[Step]) -> Vec<u32> {
    let first = run(steps, 0).unwrap();
    for seed in 1..4 {
        assert_eq!(run(steps, seed).unwrap(), first, "seed {seed}");
    }
    first
}

#[track_caller]
fn caught(steps: &[Step], kind: Kind) -> Report {
    let mut last = None;
    for seed in 0..4 {
        match run(steps, seed) {
            Err(Error::Kernel(report)) if report.kind == kind => last = Some(*report),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    last.unwrap()
}

#[track_caller]
fn overlaps(steps: &[Step], what: &str) {
    let report = caught(steps, Kind::Race);
    assert!(report.detail.ends_with(&format!("{what} by an earlier launch, which was not waited for")), "{report}");
}

#[test]
fn after_the_wait_all_is_there() {
    let expected: Vec<u32> = (0..128).map(|n| (n + 33) % 128).collect();
    for read in [true, false] {
        assert_eq!(clean(&[(false, WRITE), (read, &format!("{WAIT} {READ}"))]), expected);
    }
    // What follows may write what was read, and read what was written.
    let (read, write) = (format!("{WAIT} {READ}"), format!("{WAIT} {WRITE}"));
    clean(&[(false, WRITE), (true, &read), (true, &write), (true, &read)]);
}

#[test]
fn before_the_wait_nothing_is_read_that_was_written() {
    overlaps(&[(false, WRITE), (true, &format!("{READ} {WAIT}"))], "unordered with a write");
    overlaps(&[(false, WRITE), (true, READ)], "unordered with a write");
    // Nor what a copy reads.
    let copy = ".shared .align 16 .b8 s[1024]; mov.u64 %rd3, s; add.s64 %rd3, %rd3, %rd1; cvt.u32.u64 %r3, %rd3;
        cp.async.ca.shared.global [%r3], [%shift], 4;";
    overlaps(&[(false, WRITE), (true, &format!("{copy} {WAIT} cp.async.wait_all;"))], "unordered with a write");
    // Another place is nobody's business.
    clean(&[(false, WRITE), (true, &format!("ld.global.u32 %r3, [%b]; {WAIT}"))]);
    // The wait of one warp, or of some lanes, is not that of others.
    let some = format!("@%p1 griddepcontrol.wait; {READ} griddepcontrol.wait;");
    overlaps(&[(false, WRITE), (true, &some)], "unordered with a write");
}

#[test]
fn before_the_wait_nothing_is_written_that_was_touched() {
    let early = format!("{WRITE} {WAIT}");
    overlaps(&[(false, WRITE), (true, &early)], "unordered with a write");
    overlaps(&[(false, READ), (true, &early)], "unordered with a read");
    overlaps(&[(false, READ_TWICE), (true, &early)], "unordered with a read");
    // Of what two launches have read.
    let reads = format!("ld.global.u32 %r3, [%b]; {READ_TWICE} {WAIT}");
    overlaps(&[(false, READ_TWICE), (true, &reads), (true, &early)], "unordered with a read");
    let atomic = format!("atom.global.add.u32 %r3, [%a], 1; {WAIT}");
    overlaps(&[(false, WRITE), (true, &atomic)], "unordered with a write");
    clean(&[(false, READ), (true, &format!("ld.global.u32 %r3, [%a]; {WAIT}"))]);
}

#[test]
fn all_launches_back_to_one_that_is_not_dependent_may_overlap() {
    let early = format!("{READ} {WAIT}");
    overlaps(&[(false, WRITE), (true, WAIT), (true, &early)], "unordered with a write");
    overlaps(&[(false, WRITE), (true, WAIT), (true, WAIT), (true, WAIT), (true, &early)], "unordered with a write");
    clean(&[(false, WRITE), (true, WAIT), (false, WAIT), (true, &early)]);
    clean(&[(false, WRITE), (false, ""), (true, &early)]);
}

#[test]
fn every_thread_of_a_dependent_launch_waits() {
    clean(&[(false, WRITE), (true, WAIT), (true, WAIT)]);
    let report = caught(&[(false, WRITE), (true, ""), (true, WAIT)], Kind::Unwaited);
    assert!(report.to_string().starts_with("earlier launches not waited for: ret in k"), "{report}");
    let some = "@%p1 exit; griddepcontrol.wait;";
    let report = caught(&[(false, WRITE), (true, some)], Kind::Unwaited);
    assert!(report.detail.starts_with("lanes 0x000000ff exit without griddepcontrol.wait"), "{report}");
    // Even where nothing else is looked for.
    let options = Options { sanitize: false, ..Options::default() };
    let module = Module::parse(".version 9.0 .target sm_90 .address_size 64\n.visible .entry k() { ret; }").unwrap();
    let shape = Shape { dependent: true, ..Shape::default() };
    let error = module.launch("k", &shape, &[], &mut Memory::new(), &options);
    assert!(matches!(error, Err(Error::Kernel(report)) if report.kind == Kind::Unwaited));
}
