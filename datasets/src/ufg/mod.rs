//! The five subsets of the UFG benchmark: their ids, and what is known about each.
//!
//! Yu, Zhao, Gao, Yuan, Xiong, "Benchmark Platform for Ultra-Fine-Grained Visual Categorization Beyond Human
//! Performance", ICCV 2021: 47,114 images of 3,526 classes. The images are never shipped; they are imported from the
//! mirror's parquet files or from the official archives ([`crate::import()`]), and verified against [`Facts`].

mod facts;
mod names;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use facts::{Facts, Histogram};
pub(crate) use names::{Classes, FileName};

/// Repository of datasets on the Hugging Face Hub that mirrors the subsets, a parquet file each
/// ([`Subset::mirror_file`]).
pub const MIRROR_REPOSITORY: &str = "hibana2077/CV-dataset-all-in-parquet";

/// A soybean reproductive stage (Fehr and Caviness). There is no R2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Beginning bloom.
    R1,
    /// Beginning pod.
    R3,
    /// Full pod.
    R4,
    /// Beginning seed.
    R5,
    /// Full seed.
    R6,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 5] = [Stage::R1, Stage::R3, Stage::R4, Stage::R5, Stage::R6];

    /// Its name as in file names, such as `R1`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::R1 => "R1",
            Stage::R3 => "R3",
            Stage::R4 => "R4",
            Stage::R5 => "R5",
            Stage::R6 => "R6",
        }
    }
}

/// What is imported at a time: a subset, or a stage of SoyAgeing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subset {
    /// 80 cotton cultivars.
    Cotton80,
    /// 200 soybean cultivars.
    SoyLocal,
    /// 1,110 soybean lines; the only unbalanced subset.
    SoyGene,
    /// 198 soybean cultivars at one stage.
    SoyAgeing(Stage),
    /// 1,938 soybean cultivars.
    SoyGlobal,
}

impl Subset {
    /// All of them.
    pub const ALL: [Subset; 9] = [
        Subset::Cotton80,
        Subset::SoyLocal,
        Subset::SoyGene,
        Subset::SoyAgeing(Stage::R1),
        Subset::SoyAgeing(Stage::R3),
        Subset::SoyAgeing(Stage::R4),
        Subset::SoyAgeing(Stage::R5),
        Subset::SoyAgeing(Stage::R6),
        Subset::SoyGlobal,
    ];

    /// Its id, such as `soyageing-r1`.
    pub fn id(self) -> &'static str {
        match self {
            Subset::Cotton80 => "cotton80",
            Subset::SoyLocal => "soylocal",
            Subset::SoyGene => "soygene",
            Subset::SoyAgeing(Stage::R1) => "soyageing-r1",
            Subset::SoyAgeing(Stage::R3) => "soyageing-r3",
            Subset::SoyAgeing(Stage::R4) => "soyageing-r4",
            Subset::SoyAgeing(Stage::R5) => "soyageing-r5",
            Subset::SoyAgeing(Stage::R6) => "soyageing-r6",
            Subset::SoyGlobal => "soyglobal",
        }
    }

    /// The subset with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subset| subset.id() == id)
    }

    /// Its parquet file in [`MIRROR_REPOSITORY`].
    pub fn mirror_file(self) -> &'static str {
        match self {
            Subset::Cotton80 => "datasets/ufgvc/cotton80_dataset.parquet",
            Subset::SoyLocal => "datasets/ufgvc/soybean_dataset.parquet",
            Subset::SoyGene => "datasets/ufgvc/soygene_dataset.parquet",
            Subset::SoyAgeing(Stage::R1) => "datasets/ufgvc/soy_ageing_R1_dataset.parquet",
            Subset::SoyAgeing(Stage::R3) => "datasets/ufgvc/soy_ageing_R3_dataset.parquet",
            Subset::SoyAgeing(Stage::R4) => "datasets/ufgvc/soy_ageing_R4_dataset.parquet",
            Subset::SoyAgeing(Stage::R5) => "datasets/ufgvc/soy_ageing_R5_dataset.parquet",
            Subset::SoyAgeing(Stage::R6) => "datasets/ufgvc/soy_ageing_R6_dataset.parquet",
            Subset::SoyGlobal => "datasets/ufgvc/soyglobal_dataset.parquet",
        }
    }

    /// The folder, inside the official archive, that holds `images/` and `anno/`.
    pub fn archive_folder(self) -> &'static str {
        match self {
            Subset::Cotton80 => "COTTON",
            Subset::SoyLocal => "soybean200",
            Subset::SoyGene => "soybeangene",
            Subset::SoyAgeing(Stage::R1) => "SoyAgeing-R1/R1",
            Subset::SoyAgeing(Stage::R3) => "SoyAgeing-R3/R3",
            Subset::SoyAgeing(Stage::R4) => "SoyAgeing-R4/R4",
            Subset::SoyAgeing(Stage::R5) => "SoyAgeing-R5/R5",
            Subset::SoyAgeing(Stage::R6) => "SoyAgeing-R6/R6",
            Subset::SoyGlobal => "soybean2000",
        }
    }

    /// Names, in lower case, under which folders and archives of the subset are known: the official ones and those of
    /// the code of published methods. `SoyCultivar200` is another dataset and none of them.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Subset::Cotton80 => &["cotton", "cotton80"],
            Subset::SoyLocal => &["soybean200", "soylocal", "soyloc", "soybean"],
            Subset::SoyGene => &["soybeangene", "soybean_gene", "soygene"],
            Subset::SoyAgeing(Stage::R1) => &["r1", "soyageing-r1", "soyageingr1", "soybean_aging_r1", "soy_ageing_r1"],
            Subset::SoyAgeing(Stage::R3) => &["r3", "soyageing-r3", "soyageingr3", "soybean_aging_r3", "soy_ageing_r3"],
            Subset::SoyAgeing(Stage::R4) => &["r4", "soyageing-r4", "soyageingr4", "soybean_aging_r4", "soy_ageing_r4"],
            Subset::SoyAgeing(Stage::R5) => &["r5", "soyageing-r5", "soyageingr5", "soybean_aging_r5", "soy_ageing_r5"],
            Subset::SoyAgeing(Stage::R6) => &["r6", "soyageing-r6", "soyageingr6", "soybean_aging_r6", "soy_ageing_r6"],
            Subset::SoyGlobal => &["soybean2000", "soyglobal"],
        }
    }

    /// The subset that a folder, an archive without `.zip` or a mirror's file without `_dataset.parquet` of this name
    /// holds. Case does not matter.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Self::ALL.into_iter().find(|subset| subset.aliases().contains(&name.as_str()))
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// An id that a suite may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UfgId {
    /// A subset, or a stage of SoyAgeing.
    One(Subset),
    /// `soyageing`: the five stages, a dataset each; reported as the mean of the five (the common protocol).
    SoyAgeing,
    /// `soyageing-pooled`: one dataset of 198 classes with the images of all stages. Not comparable with `soyageing`.
    SoyAgeingPooled,
}

impl UfgId {
    /// All ids, in the order of the paper.
    pub fn all() -> Vec<UfgId> {
        let mut all: Vec<UfgId> = Subset::ALL.into_iter().map(UfgId::One).collect();
        all.splice(8..8, [UfgId::SoyAgeing, UfgId::SoyAgeingPooled]);
        all
    }

    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            UfgId::One(subset) => subset.id(),
            UfgId::SoyAgeing => "soyageing",
            UfgId::SoyAgeingPooled => "soyageing-pooled",
        }
    }

    /// The imports whose images it uses.
    pub fn subsets(self) -> Vec<Subset> {
        match self {
            UfgId::One(subset) => vec![subset],
            UfgId::SoyAgeing | UfgId::SoyAgeingPooled => Stage::ALL.into_iter().map(Subset::SoyAgeing).collect(),
        }
    }
}

impl fmt::Display for UfgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UfgId {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().into_iter().find(|id| id.name() == name).ok_or_else(|| {
            let names: Vec<String> = Self::all().into_iter().map(|id| format!("`{id}`")).collect();
            format!("unknown dataset id `{name}`, expected one of {}", names.join(", "))
        })
    }
}

impl Serialize for UfgId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for UfgId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A dataset of the benchmark, imported before by `bench fetch` or `bench import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UfgConfig {
    /// Which one.
    pub id: UfgId,
    /// Use the generated stand-in that was imported as one, never the images of the subset.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stand_in: bool,
    /// Data directory into which it was imported; the default is that of the command. A relative path is looked up
    /// beside the suite file, then in the current folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
}

/// A dataset that is reported as a part of a mean, as the papers do with SoyAgeing: a model for each of its five stages, and
/// the mean of their five scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Name of the mean: `soyageing`.
    pub group: &'static str,
    /// What a member is called, in the plural: `stages`.
    pub noun: &'static str,
    /// How many members the mean is over.
    pub size: usize,
    /// Which member this is.
    pub member: Subset,
    stand_in: bool,
}

impl GroupMember {
    /// True if both may be parts of the same mean: of one group, and both stand-ins or both not.
    pub fn belongs_with(&self, other: &Self) -> bool {
        (self.group, self.stand_in) == (other.group, other.stand_in)
    }

    /// What follows the group's name in that of the member: `-r3`.
    pub fn suffix(&self) -> &'static str {
        self.member.id().strip_prefix(self.group).unwrap_or_default()
    }
}

impl UfgConfig {
    /// The subset with this id, in the default data directory.
    pub fn new(id: UfgId) -> Self {
        Self { id, stand_in: false, data: None }
    }

    /// The mean of which it is a part.
    pub(crate) fn group(&self) -> Option<GroupMember> {
        let UfgId::One(member @ Subset::SoyAgeing(_)) = self.id else { return None };
        Some(GroupMember {
            group: UfgId::SoyAgeing.name(),
            noun: "stages",
            size: Stage::ALL.len(),
            member,
            stand_in: self.stand_in,
        })
    }

    /// The datasets that it stands for, with the ends of their names: itself, or the five stages.
    pub(crate) fn expanded(&self) -> Vec<(String, UfgConfig)> {
        if self.id != UfgId::SoyAgeing {
            return vec![(String::new(), self.clone())];
        }
        let one = |stage: Stage| {
            let id = UfgId::One(Subset::SoyAgeing(stage));
            (format!("-{}", stage.name().to_ascii_lowercase()), UfgConfig { id, ..self.clone() })
        };
        Stage::ALL.into_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        let names: Vec<&str> = UfgId::all().into_iter().map(UfgId::name).collect();
        assert_eq!(
            names,
            [
                "cotton80",
                "soylocal",
                "soygene",
                "soyageing-r1",
                "soyageing-r3",
                "soyageing-r4",
                "soyageing-r5",
                "soyageing-r6",
                "soyageing",
                "soyageing-pooled",
                "soyglobal"
            ]
        );
        for id in UfgId::all() {
            assert_eq!(id.name().parse(), Ok(id));
        }
        let error = "soyageing-r2".parse::<UfgId>().unwrap_err();
        assert!(error.starts_with("unknown dataset id `soyageing-r2`, expected one of `cotton80`, "), "{error}");
    }

    #[test]
    fn names_of_folders_and_files_are_known_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for subset in Subset::ALL {
            assert_eq!(Subset::from_id(subset.id()), Some(subset));
            let file = subset.mirror_file().rsplit('/').next().and_then(|f| f.strip_suffix("_dataset.parquet"));
            let last = subset.archive_folder().rsplit('/').next();
            for name in [file, last, Some(subset.id())].into_iter().flatten() {
                assert_eq!(Subset::from_name(name), Some(subset), "{name}");
            }
            for alias in subset.aliases() {
                assert!(seen.insert(*alias), "{alias}");
            }
        }
        assert_eq!(Subset::from_name("soybean_gene"), Some(Subset::SoyGene));
        assert_eq!(Subset::from_name("SoyCultivar200"), None, "another dataset");
    }

    #[test]
    fn soyageing_is_the_five_stages() {
        let suffixes: Vec<String> =
            UfgConfig::new(UfgId::SoyAgeing).expanded().into_iter().map(|(suffix, _)| suffix).collect();
        assert_eq!(suffixes, ["-r1", "-r3", "-r4", "-r5", "-r6"]);
        for (suffix, config) in UfgConfig::new(UfgId::SoyAgeing).expanded() {
            assert_eq!(config.id.name(), format!("soyageing{suffix}"));
            let member = config.group().unwrap();
            assert_eq!((member.group, member.size, member.suffix()), ("soyageing", 5, suffix.as_str()));
            let stand_in = UfgConfig { stand_in: true, ..config.clone() }.group().unwrap();
            let elsewhere = UfgConfig { data: Some("d".into()), ..config }.group().unwrap();
            assert!(member.belongs_with(&elsewhere) && stand_in.belongs_with(&stand_in));
            assert!(!member.belongs_with(&stand_in));
        }
        assert_eq!(UfgConfig::new(UfgId::SoyAgeingPooled).group(), None);
        assert_eq!(UfgConfig::new(UfgId::One(Subset::Cotton80)).group(), None);
        assert_eq!(UfgId::SoyAgeingPooled.subsets().len(), 5);
    }
}
