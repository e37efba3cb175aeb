//! Which devices a command computes on.

mod cards;
pub(crate) mod memory;

use cards::Machine;
pub(crate) use cards::{Facts, facts};

use candle_core::Device;
use kernels::libraries::{self, Libraries};

use crate::error::ExpectedError;

/// How a build with CUDA is made, for messages.
pub(crate) const REBUILD: &str = "`cargo run -p bench --features cuda -- …` builds CUDA in (ci/cuda-toolchain.sh makes \
                                  what the build needs where there is no CUDA toolkit)";

/// The devices that were chosen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    /// The devices, each once; at least one.
    pub(crate) places: Vec<Place>,
    /// Trials at a time where `--jobs` does not say: one a card where cards were listed, else 1.
    jobs: usize,
    /// What the user should know about the choice.
    pub(crate) note: Option<String>,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The CPU.
    Cpu,
    /// The card of this number, as the driver counts those that it shows to this process.
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

/// The devices that `--device` asks for: `auto`, `cpu`, `cuda`, `cuda:N`, several of these cards with commas between
/// them, or `cuda:all`.
///
/// # Errors
/// A name that is none, a card that is named twice, or one that cannot be had.
pub(crate) fn choose(asked: &str) -> Result<Chosen, ExpectedError> {
    decide(asked, &Machine::this())
}

fn decide(asked: &str, machine: &Machine) -> Result<Chosen, ExpectedError> {
    let usage = |message: String| ExpectedError::Usage {
        message,
        hint: "devices are auto, cpu, cuda:N, a list such as cuda:0,cuda:2, and cuda:all".into(),
    };
    match asked {
        "cpu" => return Ok(Chosen { places: vec![Place::Cpu], jobs: 1, note: None }),
        "auto" => return Ok(automatic(machine)),
        "cuda:all" => return all(asked, machine),
        _ => {}
    }
    let mut places = Vec::new();
    for name in asked.split(',') {
        let place = match Place::named(name) {
            Some(Place::Cuda(number)) => check(name, number, machine)?,
            _ => return Err(usage(format!("unknown device `{asked}`"))),
        };
        if places.contains(&place) {
            return Err(usage(format!("`{asked}` names {place} twice")));
        }
        places.push(place);
    }
    Ok(Chosen { jobs: places.len(), places, note: None })
}

impl Place {
    /// The place of this name: `cpu`, `cuda:N`, or `cuda` for the first card.
    pub(crate) fn named(name: &str) -> Option<Self> {
        if name == "cpu" {
            return Some(Self::Cpu);
        }
        match name.strip_prefix("cuda")? {
            "" => Some(Self::Cuda(0)),
            rest => rest.strip_prefix(':')?.parse::<u16>().ok().map(|number| Self::Cuda(usize::from(number))),
        }
    }

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
    /// [`ExpectedError::Device`] with the first line of the driver's reason, or where the driver is too old for the kernels.
    pub(crate) fn opened(self) -> Result<Device, ExpectedError> {
        let device = self.open().map_err(|e| self.refused(&e))?;
        libraries::takes_kernels(&device).map_err(|e| self.refused(&e))?;
        Ok(device)
    }

    /// Opens it, looks what libraries kernels use there (none on the CPU), and gives it back: what the libraries hold belongs
    /// to the thread that asked, which ends here.
    ///
    /// # Errors
    /// [`ExpectedError::Device`] with the first line of the driver's reason.
    pub(crate) fn probed(self) -> Result<Option<Libraries>, ExpectedError> {
        std::thread::scope(|scope| {
            let probe = scope.spawn(|| Ok(libraries::of(&self.opened()?)));
            probe.join().unwrap_or_else(|_| Err(self.refused(&"its libraries could not be asked")))
        })
    }

    fn refused(self, reason: &dyn std::fmt::Display) -> ExpectedError {
        ExpectedError::Device { device: self.to_string(), reason: first_line(reason) }
    }
}

impl Chosen {
    /// The device of each of the trials that run at a time: the chosen devices in turn, as often as there are trials.
    pub(crate) fn workers(&self, jobs: Option<u16>) -> Vec<Place> {
        let jobs = jobs.map_or(self.jobs, usize::from);
        self.places.iter().copied().cycle().take(jobs).collect()
    }

    /// The devices that a command uses one after the other: all that were listed, or the one of `auto`.
    pub(crate) fn in_turn(&self) -> &[Place] {
        &self.places[..self.jobs]
    }

    /// Says which of the listed devices `jobs` trials at a time leave idle.
    pub(crate) fn idle(&self, jobs: Option<u16>) -> Option<String> {
        let used = jobs.map_or(self.jobs, usize::from);
        let idle: Vec<String> = self.places[..self.jobs].iter().skip(used).map(Place::to_string).collect();
        (!idle.is_empty()).then(|| format!("`--jobs {used}` leaves {} idle", idle.join(", ")))
    }

    /// Whether nothing but the CPU was chosen.
    pub(crate) fn is_cpu(&self) -> bool {
        self.places == [Place::Cpu]
    }
}

/// The cards if there are any, else the CPU; a note where a GPU is visible and not used.
fn automatic(machine: &Machine) -> Chosen {
    let cpu = |note| Chosen { places: vec![Place::Cpu], jobs: 1, note };
    match &machine.cards {
        Some(Ok(n)) if *n > 0 => Chosen { places: (0..*n).map(Place::Cuda).collect(), jobs: 1, note: None },
        _ if !machine.visible => cpu(None),
        Some(Ok(_)) => {
            cpu(Some("a GPU is visible, but the driver gives none to this process: computing on the CPU".into()))
        }
        Some(Err(why)) => cpu(Some(format!("a GPU is visible, but {why}: computing on the CPU"))),
        None => cpu(Some(format!("a GPU is visible, but this build computes on the CPU alone; {REBUILD}"))),
    }
}

/// All cards that the driver shows; at least one.
fn all(asked: &str, machine: &Machine) -> Result<Chosen, ExpectedError> {
    check(asked, 0, machine)?;
    let chosen = automatic(machine);
    Ok(Chosen { jobs: chosen.places.len(), ..chosen })
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

fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A choice of these cards, for tests.
#[cfg(test)]
pub(crate) fn listed(places: &[Place]) -> Chosen {
    Chosen { places: places.to_vec(), jobs: places.len(), note: None }
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

    fn cards(numbers: &[usize]) -> Vec<Place> {
        numbers.iter().map(|&n| Place::Cuda(n)).collect()
    }

    #[test]
    fn auto_takes_a_card_where_there_is_one_and_says_so_where_it_is_left_idle() {
        let auto = |visible, cards| decide("auto", &machine(visible, cards)).unwrap();
        let two = auto(true, Some(Ok(2)));
        assert_eq!((two.workers(None), &two.note, two.is_cpu()), (cards(&[0]), &None, false));
        assert_eq!(two.in_turn(), cards(&[0]));
        for plain in [auto(false, Some(Ok(0))), auto(false, Some(Err("no driver"))), auto(false, None)] {
            assert_eq!((plain.workers(None), &plain.note, plain.is_cpu()), (vec![Place::Cpu], &None, true));
        }
        let idle = auto(true, None);
        assert!(idle.is_cpu() && idle.note.unwrap().contains("--features cuda"));
        let broken = auto(true, Some(Err("the driver is too old")));
        assert!(broken.is_cpu() && broken.note.unwrap().contains("too old"));
    }

    #[test]
    fn a_card_is_had_or_refused_with_the_reason() {
        let two = machine(true, Some(Ok(2)));
        assert_eq!(decide("cuda:1", &two).unwrap().places, cards(&[1]));
        assert_eq!(decide("cuda", &two).unwrap().places, cards(&[0]));
        assert!(refusal("cuda:2", &two).contains("`cuda:2`: the driver has 2 cards, counted from 0"));
        assert!(refusal("cuda:0", &machine(false, Some(Ok(0)))).contains("no card"));
        assert!(refusal("cuda:all", &machine(false, Some(Ok(0)))).contains("`cuda:all`: the driver has no card"));
        assert!(refusal("cuda:0", &machine(false, Some(Err("libcuda is missing")))).contains("libcuda is missing"));
        for asked in ["cuda:0", "cuda:all", "cuda:0,cuda:1"] {
            assert!(refusal(asked, &machine(true, None)).contains("--features cuda"), "{asked}");
        }
        assert_eq!(decide("cpu", &two).unwrap().places, [Place::Cpu]);
    }

    #[test]
    fn trials_at_a_time_are_spread_over_the_chosen_cards() {
        let four = machine(true, Some(Ok(4)));
        for (asked, jobs, want) in [
            ("auto", None, &[0][..]),
            ("auto", Some(1), &[0]),
            ("auto", Some(3), &[0, 1, 2]),
            ("auto", Some(6), &[0, 1, 2, 3, 0, 1]),
            ("cuda:2", None, &[2]),
            ("cuda:2", Some(3), &[2, 2, 2]),
            ("cuda:3,cuda:1", None, &[3, 1]),
            ("cuda:3,cuda:1", Some(5), &[3, 1, 3, 1, 3]),
            ("cuda,cuda:2", Some(1), &[0]),
            ("cuda:all", None, &[0, 1, 2, 3]),
            ("cuda:all", Some(2), &[0, 1]),
        ] {
            assert_eq!(decide(asked, &four).unwrap().workers(jobs), cards(want), "{asked} {jobs:?}");
        }
        assert_eq!(decide("cpu", &four).unwrap().workers(Some(3)), [Place::Cpu; 3]);
        let idle = |asked, jobs| decide(asked, &four).unwrap().idle(jobs);
        assert_eq!(idle("cuda:3,cuda:1,cuda:0", Some(1)).unwrap(), "`--jobs 1` leaves cuda:1, cuda:0 idle");
        assert_eq!(
            (idle("cuda:3,cuda:1", None), idle("cuda:3,cuda:1", Some(4)), idle("auto", Some(1))),
            Default::default()
        );
        assert_eq!(decide("cuda:3,cuda:1", &four).unwrap().in_turn(), cards(&[3, 1]));
    }

    #[test]
    fn other_names_are_refused() {
        let nine = machine(true, Some(Ok(9)));
        for name in ["gpu", "cuda:", "cuda:x", "cuda0", "cuda:-1", "CPU", "", "cuda:0,", "cpu,cuda:0", "cuda:1,all"] {
            assert!(refusal(name, &nine).contains("unknown device"), "{name}");
        }
        assert!(refusal("cuda:1,cuda,cuda:0", &nine).contains("names cuda:0 twice"));
    }

    #[test]
    fn a_place_is_read_back_from_its_name() {
        for place in [Place::Cpu, Place::Cuda(0), Place::Cuda(17)] {
            assert_eq!(Place::named(&place.to_string()), Some(place));
        }
        assert_eq!(Place::named("cuda:all"), None);
        assert_eq!(Place::Cpu.probed().unwrap(), None);
    }
}
