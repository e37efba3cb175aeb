//! Weights from the Hub, from the suite file to the record, with the Hub on loopback.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use backbones::{Backbone, BackboneConfig, ParameterStore};
use candle_core::{DType, Device, Tensor};
use common::{Place, Said, suite};
use random::Seeds;
use testkit::hub_server::{Access, At, Fault, Host, HubServer, Pace, ServedRepo, What, sha256};

const REPO: &str = "timm/regnetx_002.test";
const NAME: &str = "regnetx_002";

/// timm's `config.json` of these weights.
fn config_json(architecture: &str) -> String {
    format!(
        r#"{{"architecture": "{architecture}", "num_classes": 1000, "num_features": 368, "pretrained_cfg": {{
            "tag": "test", "custom_load": false, "input_size": [3, 224, 224], "fixed_input_size": false,
            "interpolation": "bicubic", "crop_pct": 0.8, "crop_mode": "center", "mean": [0.5, 0.25, 0.125],
            "std": [0.5, 1.0, 0.25], "num_classes": 1000, "pool_size": [7, 7], "first_conv": "stem.conv",
            "classifier": "head.fc"}}}}"#
    )
}

/// A `model.safetensors` of the architecture with timm's classifier.
fn weights(seed: u64) -> Vec<u8> {
    let store = ParameterStore::new(Seeds::new(seed), DType::F32, &Device::Cpu);
    Backbone::new(&BackboneConfig::timm(NAME), store.var_builder()).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = store.tensors();
    tensors.insert("head.fc.weight".into(), Tensor::zeros((1000, 368), DType::F32, &Device::Cpu).unwrap());
    tensors.insert("head.fc.bias".into(), Tensor::zeros(1000, DType::F32, &Device::Cpu).unwrap());
    safetensors::serialize(tensors.iter(), None).unwrap()
}

/// The tiny suite with this backbone instead of its own; its `resize` is left to the weights.
fn with_backbone(backbone: &str) -> String {
    let methods = "[methods.ce]\nce = {}\n";
    let data = "[datasets.cotton]\ngenerated = { classes = 3, train_per_class = 2, test_per_class = 2, size = 40, seed = 1 }\n";
    let text = suite(1, methods, data).replace("resize = 36\n", "").replace("working_size = 40\n", "");
    let (before, rest) = text.split_once("[backbones.tiny]\n").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    format!("{before}[backbones.tiny]\n{backbone}\n{after}")
}

fn plain_suite() -> String {
    with_backbone(&format!("weights = {{ repo = \"{REPO}\" }}"))
}

/// A Hub with the weights, a folder with the suite, and an empty cache.
struct World {
    server: HubServer,
    place: Place,
    bytes: Vec<u8>,
    commit: String,
}

impl World {
    fn new(suite: &str) -> Self {
        let (server, bytes) = (HubServer::start().unwrap(), weights(1));
        let repo = ServedRepo::model(REPO).small("config.json", config_json(NAME).as_bytes());
        let commit = server.add(repo.large("model.safetensors", &bytes));
        Self { server, place: Place::with_suite(suite), bytes, commit }
    }

    /// `bench` with the Hub and the cache of this world and no other setting of the Hub.
    fn bench(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.bench(arguments);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT", "ALL_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.env("HF_HOME", self.place.path("hf")).env("HF_ENDPOINT", self.server.endpoint());
        command
    }

    #[track_caller]
    fn said(&self, arguments: &[&str], code: i32) -> Said {
        Said::of(self.bench(arguments).output().unwrap(), code)
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.place.path("hf/hub/models--timm--regnetx_002.test/blobs").join(name)
    }

    fn lock(&self) -> String {
        std::fs::read_to_string(self.place.path("bench.lock")).unwrap()
    }
}

fn has(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "no `{part}` in:\n{text}"));
}

#[test]
fn from_the_hub_to_the_record() {
    let world = World::new(&plain_suite());
    // Before: the plan says what is to be fetched, and touches nothing; a run without a network says what to do.
    let plan = world.said(&["plan", "--suite", "tiny.toml"], 0).stdout;
    has(
        &plan,
        &[
            "to fetch: timm/regnetx_002.test/model.safetensors at main, size unknown",
            "1 more trials wait for what is to be fetched",
        ],
    );
    assert!(world.server.seen().is_empty() && !world.place.path("hf").exists());
    let refused = world.said(&["--suite", "tiny.toml", "--offline"], 3);
    refused.stderr_has(&["is not in the cache", "bench fetch --suite tiny"]);
    let fetched = world.bench(&["fetch", "--suite", "tiny.toml"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    Said::of(fetched, 3).stderr_has(&["is not in the cache"]);
    assert!(world.server.seen().is_empty());

    let fetched = world.said(&["fetch", "--suite", "tiny.toml"], 0);
    let digest = sha256(&world.bytes);
    has(
        &fetched.stdout,
        &[REPO, &digest, "classifier dropped: head.fc.bias [1000], head.fc.weight [1000, 368]", "bench.lock"],
    );
    fetched.stderr_has(&["fetching timm/regnetx_002.test/model.safetensors at main (", "MiB received"]);
    has(&world.lock(), &[&digest, &world.commit, "revision = \"main\"", "config.json"]);
    let sent = world.server.sent();
    world.said(&["fetch", "--suite", "tiny.toml", "--offline"], 0);
    // Another cache.
    let mut elsewhere = world.bench(&["fetch", "--suite", "tiny.toml"]);
    Said::of(elsewhere.env("HF_HUB_CACHE", world.place.path("other")).output().unwrap(), 0);
    assert!(world.place.path("other/models--timm--regnetx_002.test/blobs").join(&digest).is_file());
    let sent = 2 * sent;
    assert_eq!(world.server.sent(), sent);

    // The same plan now has ids, and the cell knows the digest and the preprocessing of the weights.
    let plan = world.said(&["plan", "--suite", "tiny.toml"], 0).stdout;
    has(&plan, &["weights of timm/regnetx_002.test", &digest[..10], "1 cells, 1 trials, 1 outstanding"]);
    world.said(&["--suite", "tiny.toml", "--out", "run", "--offline"], 0);
    assert_eq!(world.server.sent(), sent);
    let text = std::fs::read_to_string(world.place.path("run/records.jsonl")).unwrap();
    let record: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    let config = &record["config"];
    assert_eq!(config["weights"], digest);
    assert_eq!(config["backbone"]["timm"]["name"], NAME);
    // 40 = ⌊32 / 0.8⌋.
    assert_eq!((&config["protocol"]["resize"], &config["protocol"]["working_size"]), (&40.into(), &40.into()));
    assert_eq!(config["protocol"]["interpolation"], "bicubic");
    assert_eq!(config["protocol"]["normalise"]["mean"], serde_json::json!([0.5, 0.25, 0.125]));
    assert_eq!(config["protocol"]["normalise"]["std"], serde_json::json!([0.5, 1.0, 0.25]));

    // What the suite says itself counts, and is another cell.
    let own =
        plain_suite().replace("input_size = 32\n", "input_size = 32\nresize = 36\ninterpolation = \"bilinear\"\n");
    std::fs::write(world.place.path("tiny.toml"), own).unwrap();
    let stale = world.said(&["plan", "--suite", "tiny.toml", "--out", "run"], 0).stdout;
    has(&stale, &["protocol.interpolation: \"bicubic\" became null", "protocol.resize: 40 became 36"]);
}

#[test]
fn a_run_fetches_what_it_needs_and_the_lock_holds_it() {
    let world = World::new(&plain_suite());
    let run = world.said(&["--suite", "tiny.toml", "--out", "run"], 0);
    run.stderr_has(&["fetching timm/regnetx_002.test/config.json"]);
    let lock = world.lock();
    // Elsewhere, later, with the same lock: the branch has moved on, the pinned commit comes.
    let other = World { place: Place::with_suite(&plain_suite()), ..world };
    std::fs::write(other.place.path("bench.lock"), &lock).unwrap();
    let next = ServedRepo::model(REPO).small("config.json", b"{}").large("model.safetensors", b"other");
    other.server.add(next);
    let plan = other.said(&["plan", "--suite", "tiny.toml"], 0).stdout;
    has(&plan, &["to fetch: timm/regnetx_002.test/model.safetensors at main, 10.34 MiB"]);
    let fetched = other.said(&["fetch", "--suite", "tiny.toml"], 0);
    has(&fetched.stdout, &[&sha256(&other.bytes)]);
    assert_eq!(other.lock(), lock);
    // Without the entries it is the new content, which is none.
    std::fs::remove_file(other.place.path("bench.lock")).unwrap();
    let wrong = other.said(&["fetch", "--suite", "tiny.toml"], 3);
    wrong.stderr_has(&["config.json", "weights of backbone `tiny`", "hint:"]);
    // Another digest in the lock than that of the cache.
    let digest = sha256(&other.bytes);
    std::fs::write(other.place.path("bench.lock"), lock.replace(&digest, &"0".repeat(64))).unwrap();
    let wrong = other.said(&["--suite", "tiny.toml", "--out", "run"], 3);
    wrong.stderr_has(&[&format!("SHA-256 {digest} is not the pinned 000000"), "remove the file's entry"]);
    std::fs::write(other.place.path("bench.lock"), "version = 9\n").unwrap();
    other.said(&["fetch", "--suite", "tiny.toml"], 3).stderr_has(&["bench.lock: version 9 is unknown"]);
}

#[test]
fn a_commit_whose_weights_alone_are_pinned_is_fetched_whole() {
    let world = World::new(&plain_suite());
    let (commit, digest) = (&world.commit, sha256(&world.bytes));
    let suite = with_backbone(&format!("weights = {{ repo = \"{REPO}\", revision = \"{commit}\" }}"));
    std::fs::write(world.place.path("tiny.toml"), suite).unwrap();
    let lock = |digest: &str| {
        format!(
            "version = 1\n\n[[file]]\nkind = \"model\"\nrepo = \"{REPO}\"\nfile = \"model.safetensors\"\n\
             revision = \"{commit}\"\ncommit = \"{commit}\"\nsha256 = \"{digest}\"\nsize = {}\n",
            world.bytes.len()
        )
    };
    // The branch has moved on since.
    world.server.add(ServedRepo::model(REPO).small("config.json", b"{}").large("model.safetensors", b"other"));
    std::fs::write(world.place.path("bench.lock"), lock(&"0".repeat(64))).unwrap();
    world.said(&["fetch", "--suite", "tiny.toml"], 3).stderr_has(&["model.safetensors", "the pinned 000000"]);
    std::fs::write(world.place.path("bench.lock"), lock(&digest)).unwrap();
    world.said(&["fetch", "--suite", "tiny.toml"], 0);
    let pinned = world.lock();
    has(&pinned, &["config.json", &digest]);
    assert_eq!(pinned.matches(&format!("\ncommit = \"{commit}\"")).count(), 2, "{pinned}");
}

#[test]
fn what_does_not_fit_is_said_before_anything_runs() {
    let world = World::new(&with_backbone(&format!(
        "timm = {{ name = \"regnetx_004\" }}\nweights = {{ repo = \"{REPO}\", revision = \"main\" }}"
    )));
    let said = world.said(&["fetch", "--suite", "tiny.toml"], 2);
    said.stderr_has(&["the suite says `regnetx_004`, but the weights are of `regnetx_002`", "hint:"]);
    assert!(world.server.seen().iter().all(|request| request.host == Host::Hub), "the weights were not needed to tell");
    // A tensor less than the architecture has.
    let bytes = world.bytes.clone();
    let torn = String::from_utf8_lossy(&bytes[..200]).contains("head.fc.bias");
    assert!(torn, "the names come first in the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let fewer: Vec<_> = file.tensors().into_iter().filter(|(name, _)| name != "stem.conv.weight").collect();
    let fewer = safetensors::serialize(fewer, None).unwrap();
    let repo = ServedRepo::model("timm/torn").small("config.json", config_json(NAME).as_bytes());
    world.server.add(repo.large("model.safetensors", &fewer));
    std::fs::write(world.place.path("tiny.toml"), with_backbone("weights = { repo = \"timm/torn\" }")).unwrap();
    let said = world.said(&["fetch", "--suite", "tiny.toml"], 3);
    said.stderr_has(&["weights of backbone `tiny`", "missing 1: stem.conv.weight [32, 3, 3, 3]"]);
    // A repository that is not there.
    std::fs::write(world.place.path("tiny.toml"), with_backbone("weights = { repo = \"timm/absent\" }")).unwrap();
    let said = world.said(&["--suite", "tiny.toml"], 3);
    said.stderr_has(&["no model repository `timm/absent`", "HF_TOKEN", "hint:"]);
    assert!(!world.place.path("runs").exists());
}

#[test]
fn the_token_is_used_and_never_shown() {
    let world = World::new(&with_backbone("weights = { repo = \"org/gated\" }"));
    let repo = ServedRepo::model("org/gated").small("config.json", config_json(NAME).as_bytes());
    let repo = repo.large("model.safetensors", &world.bytes).access(Access::Gated("hf_right".into()));
    world.server.add(repo);
    let with_token = |token: &str, code| {
        let output = world.bench(&["fetch", "--suite", "tiny.toml"]).env("HF_TOKEN", token).output().unwrap();
        let said = Said::of(output, code);
        assert!(token.is_empty() || !format!("{}{}", said.stdout, said.stderr).contains(token), "the token is shown");
        said
    };
    with_token("", 3).stderr_has(&["which is gated", "HF_TOKEN is not set", "accept the terms at http://127.0.0.1"]);
    with_token("hf_wrong", 3).stderr_has(&["this HF_TOKEN may not read it"]);
    with_token("hf_right", 0);
    use std::os::unix::ffi::OsStrExt;
    let odd =
        world.bench(&["fetch", "--suite", "tiny.toml"]).env("HF_HOME", std::ffi::OsStr::from_bytes(b"a\xff")).output();
    Said::of(odd.unwrap(), 3).stderr_has(&["`HF_HOME`: it is not UTF-8"]);
    // The token that Python's login stores.
    std::fs::remove_dir_all(world.place.path("hf")).unwrap();
    std::fs::create_dir(world.place.path("hf")).unwrap();
    std::fs::write(world.place.path("hf/token"), "hf_right\n").unwrap();
    world.said(&["fetch", "--suite", "tiny.toml"], 0);
}

#[test]
fn a_killed_fetch_goes_on_where_it_stopped() {
    let world = World::new(&plain_suite());
    world.server.pace(Pace { chunk: 1 << 16, pause: Duration::from_millis(2) });
    let mut command = world.bench(&["fetch", "--suite", "tiny.toml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while world.server.sent() < 3_000_000 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the moment");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let digest = sha256(&world.bytes);
    let part = std::fs::metadata(world.blob(&format!("{digest}.incomplete"))).unwrap().len();
    assert!(part > 1_000_000 && !world.blob(&digest).exists());
    world.server.fault(Fault::once(At::Body, What::Truncated(500_000)));
    let said = world.said(&["fetch", "--suite", "tiny.toml"], 0);
    said.stderr_has(&["going on after", "trying again in"]);
    let bodies = world.server.bodies();
    let ranges: Vec<Option<u64>> = bodies[bodies.len() - 2..].iter().map(|body| body.range).collect();
    assert_eq!(ranges, [Some(part), Some(part + 500_000)]);
    assert_eq!(sha256(&std::fs::read(world.blob(&digest)).unwrap()), digest);
}
