//! Content-addressed names: SHA-256 over a canonical form, so that an id depends on what was asked for and on
//! nothing else (not on the order of keys, methods or datasets in a file).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Enters every cell id. Bumped when code changes what a number means; `CHANGELOG.md` says what changed.
pub const RESULTS_VERSION: u32 = 8;

/// How many hex digits of a digest an id shows.
pub const ID_DIGITS: usize = 10;

/// A SHA-256 digest, as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(&Sha256::digest(bytes))
    }

    /// The digest of a value's canonical form.
    pub fn of_value(value: &Value) -> Self {
        Self::of(canonical(value).as_bytes())
    }

    /// From the 32 bytes of a finished hash.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        use std::fmt::Write;
        Self(bytes.iter().fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a String");
            hex
        }))
    }

    /// From the hex digits of a digest that was computed elsewhere.
    pub fn from_hex(hex: &str) -> Self {
        Self(hex.to_owned())
    }

    /// All 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first [`ID_DIGITS`] hex digits.
    pub fn short(&self) -> &str {
        &self.0[..ID_DIGITS.min(self.0.len())]
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// JSON with sorted keys and no white space. Equal values have equal canonical forms.
pub fn canonical(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_unstable();
                out.push('{');
                for (i, key) in keys.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(key.as_str()).to_string());
                    out.push(':');
                    write(&map[key], out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(item, out);
                }
                out.push(']');
            }
            scalar => out.push_str(&scalar.to_string()),
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// The id of a cell: a readable slug and the first digits of the digest of its resolved configuration.
pub fn cell_id(method: &str, dataset: &str, backbone: &str, config: &Value) -> String {
    format!("{method}.{dataset}.{backbone}-{}", Digest::of_value(config).short())
}

/// The id of a trial: its cell's and its seed.
pub fn trial_id(cell: &str, seed: u64) -> String {
    format!("{cell}-s{seed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn digest_is_sha256() {
        assert_eq!(Digest::of(b"abc").hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn order_of_keys_does_not_matter_and_values_do() {
        let a = json!({"b": 1, "a": {"y": [1, 2], "x": "\"q\""}});
        let b = json!({"a": {"x": "\"q\"", "y": [1, 2]}, "b": 1});
        assert_eq!(canonical(&a), r#"{"a":{"x":"\"q\"","y":[1,2]},"b":1}"#);
        assert_eq!(Digest::of_value(&a), Digest::of_value(&b));
        assert_ne!(Digest::of_value(&a), Digest::of_value(&json!({"a": {"x": "\"q\"", "y": [2, 1]}, "b": 1})));
        assert_eq!(cell_id("ce", "cotton80", "narrow", &a), cell_id("ce", "cotton80", "narrow", &b));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9f64..1e9).prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_form_reads_back_as_the_same_value(v in value()) {
            let back: Value = serde_json::from_str(&canonical(&v)).unwrap();
            prop_assert_eq!(back, v);
        }
    }
}
