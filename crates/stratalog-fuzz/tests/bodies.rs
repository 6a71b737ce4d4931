//! The bodies of the fuzz targets on stable Rust: over tracked seeds, over seeds with changes, and over drawn bytes.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use stratalog_fuzz::{TARGETS, operations};

fn files(dir: &Path, found: &mut Vec<Vec<u8>>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else {
            let bytes = fs::read(&path).unwrap();
            // Large ones by their beginning: the formats begin anew with each batch.
            found.push(bytes[..bytes.len().min(1 << 14)].to_vec());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    files(&root.join("tests/data/client-batches"), &mut found);
    files(&root.join("tests/data/kafka-golden"), &mut found);
    files(&root.join("fuzz/seeds"), &mut found);
    assert!(found.len() > 50, "the seeds were found");
    found.sort();
    found.dedup();
    found
}

#[test]
fn every_target_has_seeds_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, _) in TARGETS {
        assert!(fs::read_dir(root.join("seeds").join(name)).unwrap().count() > 0, "{name}");
        assert!(root.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
    }
}

#[test]
fn seeds_and_their_damaged_copies_are_decoded_or_refused() {
    for seed in seeds() {
        for (name, body) in TARGETS {
            body(&seed);
            if ["hostile_directory", "operations"].contains(&name) {
                continue;
            }
            for at in (0..seed.len()).step_by(seed.len() / 40 + 1) {
                let mut damaged = seed.clone();
                damaged[at] ^= 1 << (at % 8);
                body(&damaged);
                body(&seed[..at]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn drawn_bytes_are_decoded_or_refused(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        TARGETS.iter().for_each(|(_, body)| body(&data));
    }

    #[test]
    fn drawn_operations_keep_what_was_promised(data in proptest::collection::vec(any::<u8>(), 0..128)) {
        operations(&data);
    }
}
