//! Real photographs through the whole path: `suites/tomato10.toml`, cut short, on the parquet file of the folder
//! `shared` beside the project.

mod common;

use common::Place;

#[test]
fn real_photographs_are_learned_from_parquet() {
    let text = include_str!("../../suites/tomato10.toml");
    let file = testkit::oracle::shared_dir().join("data/tomato10.parquet");
    assert!(file.is_file(), "the test needs {}", file.display());
    let short = text
        .replace("../../shared/data/tomato10.parquet", file.to_str().unwrap())
        .replace("epochs = 30", "epochs = 5")
        .replace("evaluate_epochs = 5", "evaluate_epochs = 1");
    let place = Place::with_suite(&short);
    let said = place.run("run", &["--only", "method=ce|dsot"], 0);
    said.stderr_has(&["100 images of split `val` dropped"]);
    let rows = place.results("run");
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!((row["train_images"].as_str(), row["test_images"].as_str()), ("300", "200"));
        assert_eq!(row["status"], "done");
    }
    let top1: f64 = rows[0]["top1"].parse().unwrap();
    assert!(top1 >= 0.2, "ce learns something in five epochs: {top1}, chance is 0.1");
}
