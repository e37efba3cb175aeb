use std::path::Path;

use datasets::{DatasetConfig, GeneratedConfig, PerClass};

fn parse(text: &str) -> Result<DatasetConfig, String> {
    toml::from_str(text).map_err(|e| e.message().to_owned())
}

#[test]
fn the_three_sources_are_read() {
    let leaves = parse("generated = { classes = 12, train_per_class = 3, test_per_class = 6, size = 96, seed = 1 }");
    let want = GeneratedConfig {
        classes: 12,
        train_per_class: PerClass::Fixed(3),
        test_per_class: PerClass::Fixed(6),
        size: 96,
        seed: 1,
        separation: 1.5,
    };
    assert_eq!(leaves, Ok(DatasetConfig::Generated(want.clone())));
    let range = parse(
        "[generated]\nclasses = 12\ntrain_per_class = { min = 2, max = 5 }\ntest_per_class = 6\nsize = 96\nseed = 1\nseparation = 0.5",
    );
    let train_per_class = PerClass::Range { min: 2, max: 5 };
    assert_eq!(range, Ok(DatasetConfig::Generated(GeneratedConfig { train_per_class, separation: 0.5, ..want })));
    assert!(
        matches!(parse("parquet = { path = \"a.parquet\" }"), Ok(DatasetConfig::Parquet(c)) if c.path == Path::new("a.parquet"))
    );
    assert!(
        matches!(parse("folder = { path = \"leaves\" }"), Ok(DatasetConfig::Folder(c)) if c.path == Path::new("leaves"))
    );
    for config in [parse("folder = { path = \"leaves\" }"), range] {
        let config = config.expect("a configuration");
        assert_eq!(parse(&toml::to_string(&config).expect("text")), Ok(config));
    }
}

#[test]
fn what_is_not_known_is_named() {
    insta::assert_snapshot!(parse("zip = { path = \"x\" }").unwrap_err(), @"unknown variant `zip`, expected one of `generated`, `parquet`, `folder`, `anno`, `ufg`");
    insta::assert_snapshot!(parse("folder = { file = \"x\" }").unwrap_err(), @"unknown field `file`, expected `path`");
    let leaves = |rest: &str| {
        parse(&format!("generated = {{ classes = 12, test_per_class = 6, size = 96, seed = 1, {rest} }}")).unwrap_err()
    };
    insta::assert_snapshot!(leaves("train_per_class = \"3\""), @r#"invalid type: string "3", expected a number of images or { min = …, max = … }"#);
    insta::assert_snapshot!(leaves("train_per_class = -3"), @"a number of images cannot be negative");
    insta::assert_snapshot!(leaves("train_per_class = { min = 3, most = 4 }"), @"unknown field `most`, expected `min` or `max`");
    insta::assert_snapshot!(leaves("train_per_class = 3, colour = 1"), @"unknown field `colour`, expected one of `classes`, `train_per_class`, `test_per_class`, `size`, `seed`, `separation`");
}

#[test]
fn values_out_of_range_are_refused_before_anything_is_made() {
    let config = parse("generated = { classes = 1, train_per_class = 3, test_per_class = 6, size = 96, seed = 1 }");
    let error = datasets::load("leaves", &config.expect("a configuration"), Path::new("")).expect_err("refused");
    assert!(error.is_configuration());
    assert_eq!(error.to_string(), "`generated.classes` = 1: must be 2 to 10000");
    assert_eq!(error.hint(), "correct the value in the suite file");
}
