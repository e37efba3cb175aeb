//! Which device a command computes on.

use std::path::Path;

use candle_core::Device;

use crate::error::ExpectedError;

/// How a build with CUDA is made, for messages.
pub(crate) const REBUILD: &str = "`cargo run -p bench --features cuda -- …` builds CUDA in (ci/cuda-toolchain.sh makes \
                                  what the build needs where there is no CUDA toolkit)";

/// Why networks stay on the CPU.
pub(crate) const NO_TRAINING: &str = "its training ops have been tested in an emulator, and not yet on a card";

/// A device that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    /// The device.
    pub(crate) place: Place,
    /// What the user should know about the choice.
    pub(crate) note: Option<String>,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The CPU.
    Cpu,
    /// The card of this number.
    Cuda(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(card) => write!(f, "cuda:{card}"),
        }
    }
}

/// What this build and this machine have.
#[derive(Debug, Clone, PartialEq)]
struct Machine {
    /// Whether the system shows a GPU, whatever this build can do with it.
    visible: bool,
    /// How many cards the driver has, or why it cannot be asked; nothing in a build without CUDA.
    cards: Option<Result<usize, String>>,
}

impl Machine {
    fn this() -> Self {
        let entries = std::fs::read_dir("/proc/driver/nvidia/gpus").ok();
        let listed = entries.is_some_and(|mut entries| entries.next().is_some());
        Self { visible: listed || Path::new("/dev/nvidia0").exists(), cards: cards() }
    }
}

#[cfg(feature = "cuda")]
fn cards() -> Option<Result<usize, String>> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
    Some(match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(error) => match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
            CUresult::CUDA_ERROR_STUB_LIBRARY => Err("there is no CUDA driver (libcuda.so.1) on this machine".into()),
            code => Err(format!("the CUDA driver cannot be used: {code:?}")),
        },
    })
}

#[cfg(not(feature = "cuda"))]
fn cards() -> Option<Result<usize, String>> {
    None
}

/// The device that `--device` asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// A name that is none, or a card that cannot be had.
pub(crate) fn choose(asked: &str) -> Result<Chosen, ExpectedError> {
    decide(asked, &Machine::this())
}

fn decide(asked: &str, machine: &Machine) -> Result<Chosen, ExpectedError> {
    let plain = |place| Ok(Chosen { place, note: None });
    match asked {
        "cpu" => plain(Place::Cpu),
        "auto" => Ok(automatic(machine)),
        cuda => match card(cuda) {
            Some(number) => check(asked, number, machine).and_then(plain),
            None => Err(ExpectedError::Usage {
                message: format!("unknown device `{asked}`"),
                hint: "devices are auto, cpu and cuda:N".into(),
            }),
        },
    }
}

/// The number in `cuda:N`; `cuda` is the first card.
fn card(name: &str) -> Option<usize> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse::<u16>().ok().map(usize::from),
    }
}

/// The first card if there is one, else the CPU; a note where a GPU is visible and not used.
fn automatic(machine: &Machine) -> Chosen {
    let cpu = |note| Chosen { place: Place::Cpu, note };
    match &machine.cards {
        Some(Ok(n)) if *n > 0 => Chosen { place: Place::Cuda(0), note: None },
        _ if !machine.visible => cpu(None),
        Some(Ok(_)) => {
            cpu(Some("a GPU is visible, but the driver gives none to this process: computing on the CPU".into()))
        }
        Some(Err(why)) => cpu(Some(format!("a GPU is visible, but {why}: computing on the CPU"))),
        None => cpu(Some(format!("a GPU is visible, but this build computes on the CPU alone; {REBUILD}"))),
    }
}

fn check(asked: &str, number: usize, machine: &Machine) -> Result<Place, ExpectedError> {
    let refuse = |reason: String| Err(ExpectedError::Device { device: asked.into(), reason });
    match &machine.cards {
        Some(Ok(n)) if number < *n => Ok(Place::Cuda(number)),
        Some(Ok(0)) => refuse("the driver has no card".into()),
        Some(Ok(n)) => refuse(format!("the driver has {n} cards, counted from 0")),
        Some(Err(why)) => refuse(why.clone()),
        None => refuse(format!("this build computes on the CPU alone; {REBUILD}")),
    }
}

impl Place {
    /// Opens it.
    ///
    /// # Errors
    /// The driver's reason.
    pub(crate) fn open(self) -> candle_core::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(card) => Device::new_cuda(card),
        }
    }

    /// Opens it for a command.
    ///
    /// # Errors
    /// [`ExpectedError::Device`] with the first line of the driver's reason.
    pub(crate) fn opened(self) -> Result<Device, ExpectedError> {
        self.open().map_err(|e| ExpectedError::Device { device: self.to_string(), reason: first_line(&e) })
    }

    /// Refuses to train on a card.
    ///
    /// # Errors
    /// [`ExpectedError::Device`].
    pub(crate) fn for_training(self) -> Result<Self, ExpectedError> {
        match self {
            Self::Cpu => Ok(self),
            Self::Cuda(_) => Err(ExpectedError::Device {
                device: self.to_string(),
                reason: format!("this version trains on the CPU alone: {NO_TRAINING}"),
            }),
        }
    }
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(visible: bool, cards: Option<Result<usize, &str>>) -> Machine {
        Machine { visible, cards: cards.map(|c| c.map_err(str::to_owned)) }
    }

    fn refusal(asked: &str, machine: &Machine) -> String {
        decide(asked, machine).expect_err("refused").to_string()
    }

    #[test]
    fn auto_takes_a_card_where_there_is_one_and_says_so_where_it_is_left_idle() {
        let auto = |visible, cards| decide("auto", &machine(visible, cards)).unwrap();
        assert_eq!(auto(true, Some(Ok(2))), Chosen { place: Place::Cuda(0), note: None });
        assert_eq!(auto(false, Some(Ok(0))), Chosen { place: Place::Cpu, note: None });
        assert_eq!(auto(false, Some(Err("no driver"))), Chosen { place: Place::Cpu, note: None });
        assert_eq!(auto(false, None), Chosen { place: Place::Cpu, note: None });
        let idle = auto(true, None);
        assert!(idle.place == Place::Cpu && idle.note.unwrap().contains("--features cuda"));
        let broken = auto(true, Some(Err("the driver is too old")));
        assert!(broken.place == Place::Cpu && broken.note.unwrap().contains("too old"));
    }

    #[test]
    fn a_card_is_had_or_refused_with_the_reason() {
        let two = machine(true, Some(Ok(2)));
        assert_eq!(decide("cuda:1", &two).unwrap().place, Place::Cuda(1));
        assert_eq!(decide("cuda", &two).unwrap().place, Place::Cuda(0));
        assert!(refusal("cuda:2", &two).contains("`cuda:2`: the driver has 2 cards, counted from 0"));
        assert!(refusal("cuda:0", &machine(false, Some(Ok(0)))).contains("no card"));
        assert!(refusal("cuda:0", &machine(false, Some(Err("libcuda is missing")))).contains("libcuda is missing"));
        assert!(refusal("cuda:0", &machine(true, None)).contains("--features cuda"));
        assert_eq!(decide("cpu", &two).unwrap().place, Place::Cpu);
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["gpu", "cuda:", "cuda:x", "cuda0", "cuda:-1", "CPU", ""] {
            assert!(refusal(name, &machine(true, Some(Ok(9)))).contains("unknown device"), "{name}");
        }
    }

    #[test]
    fn training_stays_on_the_cpu() {
        assert_eq!(Place::Cpu.for_training().unwrap(), Place::Cpu);
        assert!(
            Place::Cuda(3)
                .for_training()
                .unwrap_err()
                .to_string()
                .contains("`cuda:3`: this version trains on the CPU alone")
        );
    }
}
