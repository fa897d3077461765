//! The kernels and the store that they read and write, with the tests that stand
//! beside them, and stand-ins for the few types of other files that they name.

#![allow(dead_code, unreachable_pub, unused_imports)]

#[path = "../../src/engine/tree/halves.rs"]
mod halves;
#[path = "../../src/engine/tree/kernel.rs"]
mod kernel;
#[path = "../../src/engine/tree/kernel_attention.rs"]
mod kernel_attention;
#[path = "../../src/engine/tree/kernel_codes.rs"]
mod kernel_codes;
#[path = "../../src/engine/tree/kernel_halves.rs"]
mod kernel_halves;
#[path = "../../src/engine/tree/kernel_kv.rs"]
mod kernel_kv;
#[path = "../../src/engine/tree/kernel_lanes.rs"]
mod kernel_lanes;
#[path = "../../src/engine/tree/kernel_quant.rs"]
mod kernel_quant;
#[path = "../../src/engine/tree/kernel_rows.rs"]
mod kernel_rows;
#[path = "../../src/engine/tree/kernel_tiles.rs"]
mod kernel_tiles;
#[path = "../../src/engine/tree/kernel_zeros.rs"]
mod kernel_zeros;
// Links beside this file: a path given here would be where its modules are sought.
mod quant;
#[path = "../../src/engine/tree/store.rs"]
mod store;
#[path = "../../src/token.rs"]
mod token;

#[path = "../../src/engine/rng.rs"]
mod rng;

mod engine {
    pub(crate) use crate::rng;

    pub(crate) mod tree {
        pub(crate) use crate::kernel;
    }
}

mod kv {
    pub type BlockId = u32;

    #[derive(Debug, Clone, Copy)]
    pub struct BlockCopy {
        pub from: BlockId,
        pub to: BlockId,
    }
}

mod model {
    use crate::kv::BlockId;
    use crate::token::TokenId;

    #[derive(Debug, Clone, Copy)]
    pub struct Row<'a> {
        pub token: TokenId,
        pub position: usize,
        pub blocks: &'a [BlockId],
        pub logits: bool,
    }
}

mod threads {
    /// A thread for every part, without the library's pool.
    pub struct Threads;

    impl Threads {
        pub fn new(_: usize) -> std::io::Result<Self> {
            Ok(Self)
        }

        pub fn each<T: Send>(&self, parts: &mut [T], work: impl Fn(&mut T) + Send + Sync) {
            let work = &work;
            std::thread::scope(|scope| {
                for part in parts {
                    scope.spawn(move || work(part));
                }
            });
        }
    }
}
