//! Trials on a card: repeatable, resumable, the same however many at a time, and close to the CPU's. On the first card, or not at
//! all, which is told.
#![cfg(unix)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{Place, Said, suite};
use records::{Record, Status, journal};
use testkit::tolerance::{FIRST_LOSS_F32, assert_close};

/// Every objective, head and teacher, as small as they go.
const METHODS: &str = r"
[methods.ce]
ce = {}
[methods.supcon]
supcon = { output = 8 }
[methods.triplet]
triplet = {}
[methods.pac-mcl-le]
pac-mcl-le = { parts = 2, dim = 4 }
[methods.pac-mcl-bw]
pac-mcl-bw = { parts = 2, dim = 4 }
[methods.dsot]
dsot = { k = 4, hidden = 8 }
[methods.cotap]
cotap = { hidden = 16, output = 8 }
";

const DATASET: &str = r"
[datasets.soy]
generated = { classes = 3, train_per_class = 4, test_per_class = 2, size = 24, seed = 2 }
";

/// One test at a time: the card may be an emulated one, which has all cores busy.
static ALONE: Mutex<()> = Mutex::new(());

/// The first card to oneself, or nothing where there is none, which is told.
fn card(test: &str) -> Option<MutexGuard<'static, ()>> {
    let opened = if cfg!(feature = "cuda") {
        candle_core::Device::new_cuda(0).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
    } else {
        Err("this build has no CUDA (`--features cuda`)".to_owned())
    };
    match opened {
        Ok(_) => Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(why) => {
            // Past the harness, which shows the output of failing tests alone.
            let mut stderr = std::io::stderr();
            writeln!(stderr, "{test}: not run, no card: {why}").unwrap();
            None
        }
    }
}

/// The tiny suite at 16 pixels.
fn tiny(epochs: u64, batch: usize, methods: &str) -> String {
    let sizes = "input_size = 16\nresize = 18\nworking_size = 20";
    suite(epochs, methods, DATASET)
        .replace("input_size = 32\nresize = 36\nworking_size = 40", sizes)
        .replace("batch_size = 6", &format!("batch_size = {batch}"))
}

/// The latest records of a run by trial, all of which are done.
fn done(place: &Place, out: &str) -> Vec<Record> {
    let records = journal::read(&place.path(out).join("records.jsonl")).unwrap();
    let latest: Vec<Record> = records.latest().into_values().cloned().collect();
    assert!(latest.iter().all(|record| record.status == Status::Done), "{latest:?}");
    latest
}

/// What must be the same, bit for bit: weights, predictions and the curve of each trial.
fn outcome(records: &[Record]) -> Vec<String> {
    let of = |r: &Record| {
        let (weights, predictions) = (r.weights.as_ref().unwrap(), &r.predictions.as_ref().unwrap().sha256);
        format!("{} weights {weights} predictions {predictions} {:?}", r.trial, r.curve)
    };
    records.iter().map(of).collect()
}

#[test]
fn the_same_trials_twice_have_the_same_weights_and_records_name_the_card() {
    let Some(_card) = card("the same trials twice on a card") else { return };
    let place = Place::with_suite(&tiny(1, 6, METHODS));
    place.run("a", &["--device", "cuda:0"], 0);
    place.run("b", &["--device", "cuda:0"], 0);
    let (a, b) = (done(&place, "a"), done(&place, "b"));
    assert_eq!(a.len(), 7);
    assert_eq!(outcome(&a), outcome(&b));
    for record in &a {
        let provenance = &record.provenance;
        assert_eq!(provenance.device, "cuda:0");
        assert!(provenance.card.as_ref().is_some_and(|name| !name.is_empty()), "{provenance:?}");
        assert!(provenance.driver.as_ref().is_some_and(|driver| driver.contains("CUDA ")), "{provenance:?}");
        let libraries = provenance.libraries.as_ref();
        assert!(libraries.is_some_and(|l| l.starts_with("cuDNN ") && l.contains(", cuSOLVER ")), "{provenance:?}");
        let cost = record.cost.as_ref().unwrap();
        // Parameters, gradients and two moments of float32 have to lie somewhere.
        let least = 4.0 * 4.0 * (cost.params + cost.params_train_only) as f64 / f64::from(1 << 20);
        assert!(cost.peak_device_memory_mb.is_none_or(|peak| peak > least), "{cost:?}, expected more than {least}");
    }
    let plan =
        Said::of(place.bench(&["plan", "--suite", "tiny.toml", "--device", "cuda:0"]).output().unwrap(), 0).stdout;
    let (card, driver) = (a[0].provenance.card.as_ref().unwrap(), a[0].provenance.driver.as_ref().unwrap());
    assert!(plan.contains(&format!("\ndevice cuda:0 ({card}, driver {driver})\n")), "{plan}");
}

#[test]
fn fast_algorithms_are_another_trial_or_refused_with_what_is_missing() {
    let Some(_card) = card("fast algorithms on a card") else { return };
    let plain = tiny(1, 6, METHODS);
    let place = Place::with_suite(&plain.replace("batch_size = 6", "batch_size = 6\nalgorithms = \"fast\""));
    let arguments = ["--only", "method=ce", "--device", "cuda:0"];
    let said = Said::any(place.command("a", &arguments).output().unwrap());
    if said.code == Some(0) {
        said.stderr_has(&["note: `protocol.algorithms` = \"fast\": these trials are not repeatable"]);
        let fast = done(&place, "a").remove(0);
        assert_eq!(fast.config["protocol"]["algorithms"], "fast");
        let place = Place::with_suite(&plain);
        place.run("a", &arguments, 0);
        let single = done(&place, "a").remove(0);
        assert!(single.config["protocol"].get("algorithms").is_none());
        assert_ne!(fast.cell, single.cell);
        return;
    }
    let (code, why) = match cfg!(feature = "cudnn") {
        true => (3, "is for cuDNN, which on cuda:0 is not used: "),
        false => (2, "is for cuDNN, which this build does not have"),
    };
    assert_eq!(said.code, Some(code), "{}", said.stderr);
    said.stderr_has(&["tiny.toml:10:1: `protocol.algorithms` = \"fast\" ", why, "\nhint: "]);
}

#[test]
fn a_trial_that_is_killed_and_resumed_has_the_weights_of_one_that_was_not() {
    let Some(_card) = card("a trial resumed on a card") else { return };
    // A slow card is caught in few epochs, a fast one in many.
    for epochs in [4, 40, 400, 4000] {
        let place = Place::with_suite(&tiny(epochs, 6, "[methods.cotap]\ncotap = { hidden = 16, output = 8 }\n"));
        let mut run =
            place.command("run", &["--device", "cuda:0"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let checkpoint = || {
            let trials = std::fs::read_dir(place.path("run/trials"));
            trials.is_ok_and(|t| t.flatten().any(|e| e.path().join("checkpoint.safetensors").exists()))
        };
        while run.try_wait().unwrap().is_none() && !checkpoint() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Command::new("kill").args(["-9", &run.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        run.wait().unwrap();
        place.run("run", &["--device", "cuda:0"], 0);
        let resumed = done(&place, "run");
        if resumed[0].cost.as_ref().unwrap().resumed_at_step == 0 {
            // It was faster than the kill.
            continue;
        }
        place.run("straight", &["--device", "cuda:0"], 0);
        assert_eq!(outcome(&resumed), outcome(&done(&place, "straight")));
        return;
    }
    panic!("no kill met a trial that had a checkpoint");
}

#[test]
fn trials_at_a_time_change_no_weights() {
    let Some(_card) = card("two trials at a time on a card") else { return };
    let place = Place::with_suite(&tiny(1, 6, METHODS));
    let only = ["--only", "method=ce|triplet|cotap|dsot"];
    place.run("one", &[&only[..], &["--device", "cuda:0"]].concat(), 0);
    place.run("two", &[&only[..], &["--device", "cuda:0", "--jobs", "2"]].concat(), 0);
    place.run("all", &[&only[..], &["--device", "cuda:all"]].concat(), 0);
    let one = done(&place, "one");
    assert_eq!(one.len(), 4);
    for other in ["two", "all"] {
        let other = done(&place, other);
        // Another model of card may round differently.
        let same_model = |record: &Record| record.provenance.card == one[0].provenance.card;
        let (ours, theirs): (Vec<Record>, Vec<Record>) =
            one.iter().cloned().zip(other).filter(|(_, other)| same_model(other)).unzip();
        assert!(!ours.is_empty());
        assert_eq!(outcome(&ours), outcome(&theirs));
    }
}

#[test]
fn the_first_step_has_the_cpus_loss() {
    let Some(_card) = card("the first step on a card and on the CPU") else { return };
    // One step an epoch, over all images.
    let place = Place::with_suite(&tiny(1, 12, METHODS));
    place.run("card", &["--device", "cuda:0"], 0);
    place.run("cpu", &["--device", "cpu"], 0);
    for (card, cpu) in done(&place, "card").iter().zip(&done(&place, "cpu")) {
        assert_eq!((&card.trial, card.cost.as_ref().unwrap().steps), (&cpu.trial, 1));
        let (got, want) = (&card.curve[0], &cpu.curve[0]);
        assert_close(&format!("{}: loss", cpu.trial), &[got.loss], &[want.loss], 1, FIRST_LOSS_F32);
        assert_eq!(got.terms.keys().collect::<Vec<_>>(), want.terms.keys().collect::<Vec<_>>());
        for (name, term) in &want.terms {
            assert_close(&format!("{}: {name}", cpu.trial), &[got.terms[name]], &[*term], 1, FIRST_LOSS_F32);
        }
    }
}

#[test]
fn bfloat16_repeats_and_is_another_trial() {
    let Some(_card) = card("bfloat16 on a card") else { return };
    let text = tiny(1, 6, METHODS);
    let place = Place::with_suite(&text.replace("batch_size = 6", "batch_size = 6\nprecision = \"bfloat16\""));
    let arguments = ["--only", "method=ce|cotap", "--device", "cuda:0"];
    place.run("a", &arguments, 0);
    place.run("b", &arguments, 0);
    let (a, b) = (done(&place, "a"), done(&place, "b"));
    assert_eq!(a.len(), 2);
    assert_eq!(outcome(&a), outcome(&b));
    let plain = Place::with_suite(&text);
    plain.run("a", &arguments, 0);
    for (half, single) in a.iter().zip(&done(&plain, "a")) {
        assert_eq!((&half.method, &half.config["protocol"]["precision"]), (&single.method, &"bfloat16".into()));
        assert!(single.config["protocol"].get("precision").is_none());
        assert!(half.cell != single.cell && half.weights != single.weights);
    }
}

#[test]
fn a_card_without_enough_memory_is_a_status_and_the_grid_goes_on() {
    let Some(_card) = card("a card without enough memory") else { return };
    let methods = "[methods.ce]\nce = {}\n[methods.triplet]\ntriplet = {}\n";
    let place = Place::with_suite(&suite(1, methods, DATASET).replace("batch_size = 6", "batch_size = 12"));
    place.run("whole", &["--device", "cuda:0"], 0);
    let whole = done(&place, "whole");
    if !whole[0].provenance.card.as_ref().is_some_and(|name| name.starts_with("software card")) {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "a card without enough memory: not run, this one has what it has").unwrap();
        return;
    }
    let mut small = place.command("small", &["--device", "cuda:0"]);
    Said::of(small.env("UFG_SOFTWARE_CARD_MB", "1").output().unwrap(), 10);
    let records = journal::read(&place.path("small/records.jsonl")).unwrap();
    assert_eq!(records.all.len(), 2);
    for record in &records.all {
        let Status::OutOfMemory { message } = &record.status else { panic!("{record:?}") };
        assert!(message.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{message}");
    }
    // Where there is enough, the same command does what is left.
    place.run("small", &["--device", "cuda:0"], 0);
    assert_eq!(outcome(&done(&place, "small")), outcome(&whole));
}

#[test]
fn losses_are_verified_on_the_card() {
    let Some(_card) = card("`bench verify` on a card") else { return };
    let place = Place::with_suite("");
    std::fs::create_dir(place.path("set")).unwrap();
    let folder = common::told("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"));
    let data = std::path::Path::new(&folder).join("../ci/oracles/data");
    for file in ["supcon.pairs8.safetensors", "triplet.mixed7.safetensors", "cotap.ties48.safetensors"] {
        std::fs::copy(data.join(file), place.path("set").join(file)).unwrap();
    }
    let command = ["verify", "--oracles", "set", "--device", "cuda:0"];
    let said = Said::of(place.bench(&command).output().unwrap(), 0);
    assert!(said.stdout.contains("\n6 rows, 0 outside their tolerance\n"), "{}", said.stdout);
}
