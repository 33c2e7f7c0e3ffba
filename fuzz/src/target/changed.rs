//! The file in which a device remembers what has changed.

use walb_fuzz_engine::memory::bounded;
use walb_wdev::engine::changed_file::{believe, examples, seal};

use super::Target;

/// Input: the file.
pub const CHANGED: Target = Target {
    name: "changed",
    about: "the file of changed chunks beside a device's configuration",
    seeds: examples,
    repair: |input, _| seal(input),
    run: |input| {
        // A set of runs may take a bitmap of 8 KiB for a few bytes each, and it is copied.
        let Some(believed) = bounded((4 << 20) + 16384 * input.len(), || believe(input)) else {
            return;
        };
        let chunks = believed.device_size.0.div_ceil(believed.chunk.0);
        if let Some(changed) = &believed.changed {
            let within = changed.iter().all(|(first, count)| first + count <= chunks);
            assert!(within, "chunks beyond the device's {chunks}");
        }
        let again = believe(&believed.stored).expect("what is stored is believed");
        assert_eq!(again, believed, "stored again it says the same");
    },
    max_len: 2 << 10,
};
