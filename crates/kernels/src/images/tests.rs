use super::*;

/// One view of 4×4 pixels of a batch of one image of 6×5, with a shuffle of 2×2 tiles.
fn words() -> Vec<u32> {
    let mut words = vec![0; RECIPE_WORDS];
    (words[2], words[3]) = (6, 5);
    words[4..8].copy_from_slice(&[1, 0, 5, 5]);
    words[14..17].copy_from_slice(&[2, 1, 3]);
    words[23..27].copy_from_slice(&[1, 1, 3, 2]);
    (words[27], words[28]) = (2, RECIPE_WORDS as u32);
    words.extend([2, 0, 1, 3]);
    words
}

fn checked(words: Vec<u32>) -> Result<Recipes> {
    Recipes::new(words, 1, 4, ([0.0; 3], [1.0; 3]), 90)
}

#[test]
fn what_a_batch_needs_is_found() {
    let recipes = checked(words()).unwrap();
    assert_eq!((recipes.most_rows(), recipes.most_side(), recipes.any_contrast()), (5, 5, true));
    assert_eq!((recipes.views(), recipes.size(), recipes.pixels(), recipes.words().len()), (1, 4, 90, 34));
}

#[test]
fn recipes_that_leave_their_memory_are_refused() {
    let cases: [(usize, u32, &str); 13] = [
        (0, 1, "its image leaves the bytes of the batch"),
        (1, 1, "its image leaves the bytes of the batch"),
        (3, 6, "its image leaves the bytes of the batch"),
        (4, 2, "its crop leaves the image"),
        (5, 1, "its crop leaves the image"),
        (5, u32::MAX, "its crop leaves the image"),
        (6, 0, "its crop is empty"),
        (14, 5, "more than four steps of jitter"),
        (16, 4, "a step of jitter that is none"),
        (16, 1, "two changes of contrast"),
        (25, 4, "what it erases leaves the view"),
        (27, 5, "tiles without pixels"),
        (28, RECIPE_WORDS as u32 + 1, "the order of its tiles"),
    ];
    for (word, value, what) in cases {
        let mut bad = words();
        bad[word] = value;
        let error = checked(bad).unwrap_err().to_string();
        assert_eq!(error, format!("augment: the recipe of view 0: {what}"), "word {word}");
    }
    let mut bad = words();
    bad[RECIPE_WORDS + 2] = 4;
    assert!(checked(bad).unwrap_err().to_string().ends_with("the order of its tiles"));
    assert!(checked(words()[..20].to_vec()).unwrap_err().to_string().ends_with("20 words for 1 views of 30"));
    let error = Recipes::new(vec![], 0, 0, ([0.0; 3], [1.0; 3]), 0).unwrap_err();
    assert!(error.to_string().contains("`size` = 0"), "{error}");
}
