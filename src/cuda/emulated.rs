//! The emulator as a device: runs the kernels' PTX on the processor, and stops at the first bug that it finds in them.

use super::device::{Arg, Device, Launch, Limits};
use super::kept_variants;
use super::specialized::Specialized;
use crate::error::{Error, Result};
use ptx_emulator::{Memory, Module, Options, Shape};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// An emulated GPU.
pub struct Emulated {
    module: Module,
    /// Kernels that were compiled for one model, by the name of their unit.
    specialized: HashMap<&'static str, Module>,
    /// PTX of such kernels in place of their own.
    replaced: Vec<(Specialized, String)>,
    options: Options,
    memory: Rc<RefCell<Memory>>,
    /// Launches that are being recorded, if they are.
    recording: RefCell<Option<Vec<Recorded>>>,
    instructions: Cell<u64>,
    launches: Cell<u64>,
    free: Cell<Option<u64>>,
    limits: Limits,
}

/// Those of an H100.
const LIMITS: Limits = Limits { capability: (9, 0), shared: 227 * 1024, multiprocessors: 132 };

/// A launch that was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    kernel: &'static str,
    shape: Shape,
    args: Vec<ptx_emulator::Arg>,
}

/// Memory of an emulated GPU.
pub struct EmulatedMemory {
    address: u64,
    bytes: usize,
    memory: Rc<RefCell<Memory>>,
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        // Whatever still uses it is reported from now on.
        self.memory.borrow_mut().free(self.address);
    }
}

impl Emulated {
    /// A device that runs the kernels of `ptx`.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the emulator cannot run that PTX.
    pub fn new(ptx: &str, options: Options) -> Result<Self> {
        let module = Module::parse(ptx).map_err(failed)?;
        Ok(Self {
            module,
            specialized: HashMap::new(),
            replaced: Vec::new(),
            options,
            memory: Rc::default(),
            recording: RefCell::default(),
            instructions: Cell::new(0),
            launches: Cell::new(0),
            free: Cell::new(None),
            limits: LIMITS,
        })
    }

    /// Instructions, counted once per warp, of all launches so far.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.get()
    }

    /// All launches so far.
    pub fn launches(&self) -> u64 {
        self.launches.get()
    }

    /// Makes the device say that it has so much free memory.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.free.set(Some(bytes));
    }

    /// Makes the device say that it is another one; the emulator itself has all instructions and more memory anyway.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Makes the device load this PTX when it is asked for these kernels.
    pub fn replace(&mut self, kernels: impl Into<Specialized>, ptx: String) {
        self.replaced.push((kernels.into(), ptx));
    }

    fn run(&self, Recorded { kernel, shape, args }: &Recorded) -> Result<()> {
        let mut memory = self.memory.borrow_mut();
        let unit = kernel.split('_').next().unwrap_or_default();
        let module = self.specialized.get(unit).unwrap_or(&self.module);
        let stats = module.launch(kernel, shape, args, &mut memory, &self.options).map_err(failed)?;
        self.instructions.set(self.instructions.get() + stats.warp_instructions);
        self.launches.set(self.launches.get() + 1);
        Ok(())
    }
}

fn failed(error: ptx_emulator::Error) -> Error {
    Error::Failed(format!("emulated GPU: {error}"))
}

fn argument(arg: &Arg) -> ptx_emulator::Arg {
    match *arg {
        Arg::Address(address) => ptx_emulator::Arg::U64(address),
        Arg::I32(value) => ptx_emulator::Arg::S32(value),
        Arg::F32(value) => ptx_emulator::Arg::F32(value),
    }
}

impl Device for Emulated {
    type Memory = EmulatedMemory;
    type Graph = Vec<Recorded>;

    fn name(&self) -> String {
        "emulated GPU".into()
    }

    fn limits(&self) -> Result<Limits> {
        Ok(self.limits)
    }

    fn load(&mut self, kernels: &Specialized) -> Result<()> {
        let ptx = match self.replaced.iter().find(|(of, _)| of == kernels) {
            Some((_, ptx)) => ptx.clone(),
            None => kept_variants::ptx(kernels)?,
        };
        self.specialized.insert(kernels.name(), Module::parse(&ptx).map_err(failed)?);
        Ok(())
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(self.free.get())
    }

    fn allocate(&self, name: &'static str, bytes: usize) -> Result<EmulatedMemory> {
        let address = self.memory.borrow_mut().alloc(name, bytes);
        Ok(EmulatedMemory { address, bytes, memory: self.memory.clone() })
    }

    fn address(&self, memory: &EmulatedMemory) -> u64 {
        memory.address
    }

    fn upload(&self, memory: &mut EmulatedMemory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.memory.borrow_mut().write(memory.address + offset as u64, bytes).map_err(failed)
    }

    fn zero(&self, memory: &mut EmulatedMemory, offset: usize, bytes: usize) -> Result<()> {
        self.upload(memory, offset, &vec![0; bytes])
    }

    fn download(&self, memory: &EmulatedMemory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let (address, mut device) = (memory.address + offset as u64, self.memory.borrow_mut());
        if !device.is_written(address, bytes.len()).map_err(failed)? {
            let found =
                format!("{} bytes of {} were asked for, and some were never written", bytes.len(), memory.bytes);
            return Err(Error::Failed(format!("emulated GPU: {found}")));
        }
        bytes.copy_from_slice(&device.read(address, bytes.len()).map_err(failed)?);
        Ok(())
    }

    #[allow(unsafe_code)]
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Launch { grid, block, cluster, shared, dependent, .. } = *launch;
        let dependent = dependent && self.limits.has_dependent_launches();
        let shape = Shape { grid, block, cluster, dynamic_shared: shared, dependent };
        let args = launch.args.iter().map(argument).collect();
        let launch = Recorded { kernel: launch.kernel, shape, args };
        match &mut *self.recording.borrow_mut() {
            Some(recording) => recording.push(launch),
            None => return self.run(&launch),
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Recorded>> {
        self.recording.replace(Some(Vec::new()));
        let result = work();
        let recorded = self.recording.take().unwrap_or_default();
        result.map(|()| recorded)
    }

    fn launches(&self, graph: &Vec<Recorded>) -> Result<usize> {
        Ok(graph.len())
    }

    fn replay(&self, graph: &Vec<Recorded>) -> Result<()> {
        // The first one has nothing to depend on: a replay starts when everything before it has ended.
        let first = graph
            .first()
            .map(|launch| Recorded { shape: Shape { dependent: false, ..launch.shape }, ..launch.clone() });
        first.iter().chain(graph.iter().skip(1)).try_for_each(|launch| self.run(launch))
    }

    /// Of the emulation, which tells nothing of a GPU.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        let started = std::time::Instant::now();
        work()?;
        Ok(started.elapsed().as_secs_f32() * 1e3)
    }
}
