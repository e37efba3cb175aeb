//! What the tests of the command share: a tiny suite, and a runner of the real binary.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Columns of results.csv that tell of time or of the attempt, not of the result.
pub(crate) const TIMING: &[&str] = &reports::TIMING_COLUMNS;

/// A suite that runs in seconds: `methods` are lines of `[methods.*]` tables, `datasets` likewise.
pub(crate) fn suite(epochs: u64, methods: &str, datasets: &str) -> String {
    format!(
        r#"description = "tiny"
seeds = [7]

[protocol]
input_size = 32
resize = 36
working_size = 40
epochs = {epochs}
batch_size = 6
evaluate_epochs = 2
optimizer = {{ adamw = {{ learning_rate = 2e-3 }} }}
schedule = {{ cosine = {{ warmup_epochs = 0 }} }}

[backbones.tiny]
resnet = {{ blocks = [1, 1, 1, 1], widths = [8, 8, 12, 12], stem_width = 8, strides = [1, 1, 1, 1], block = "basic" }}

{methods}
{datasets}
"#
    )
}

pub(crate) const THREE_METHODS: &str = r"
[methods.ce]
ce = {}
[methods.pac-mcl-bw]
pac-mcl-bw = { parts = 2, dim = 4 }
[methods.cotap]
cotap = { hidden = 16, output = 8 }
";

pub(crate) const TWO_DATASETS: &str = r"
[datasets.cotton]
generated = { classes = 4, train_per_class = 3, test_per_class = 3, size = 40, seed = 1 }
[datasets.soy]
generated = { classes = 3, train_per_class = { min = 3, max = 5 }, test_per_class = 3, size = 40, seed = 2 }
";

/// A folder with a suite file in it.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

/// What cargo tells a test when it runs, else what it told when it was built. On another machine than that of the build,
/// ci/gpu/measure.py tells it.
#[expect(clippy::disallowed_methods, reason = "cargo tells tests by their environment")]
pub(crate) fn told(name: &str, built: &str) -> std::ffi::OsString {
    std::env::var_os(name).unwrap_or_else(|| built.into())
}

impl Place {
    pub(crate) fn with_suite(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tiny.toml"), text).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `bench --suite tiny.toml --out <out> <arguments>`, in this folder.
    pub(crate) fn command(&self, out: &str, arguments: &[&str]) -> Command {
        let mut command = self.bench(&["--suite", "tiny.toml", "--out", out]);
        command.args(arguments);
        command
    }

    /// `bench <arguments>`, in this folder.
    pub(crate) fn bench(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(told("CARGO_BIN_EXE_bench", env!("CARGO_BIN_EXE_bench")));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs to the end and asserts the exit code.
    #[track_caller]
    pub(crate) fn run(&self, out: &str, arguments: &[&str], code: i32) -> Said {
        Said::of(self.command(out, arguments).output().unwrap(), code)
    }

    /// results.csv of a run without the columns of time, sorted as it is.
    pub(crate) fn results(&self, out: &str) -> Vec<BTreeMap<String, String>> {
        results(&self.path(out).join("results.csv"))
    }
}

/// The rows of a results.csv by column, without those of time.
pub(crate) fn results(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    reader
        .deserialize::<BTreeMap<String, String>>()
        .map(|row| {
            let mut row = row.unwrap();
            TIMING.iter().for_each(|column| assert!(row.remove(*column).is_some(), "no column {column}"));
            row.remove(reports::DEVICE_MEMORY_COLUMN);
            row
        })
        .collect()
}

/// What a command said.
pub(crate) struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn of(output: Output, code: i32) -> Self {
        let said = Self::any(output);
        assert_eq!(said.code, Some(code), "stdout:\n{}\nstderr:\n{}", said.stdout, said.stderr);
        said
    }

    /// With any exit code.
    pub(crate) fn any(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn stderr_has(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "no `{part}` in:\n{}", self.stderr);
        }
    }
}
