//! Suffixes of sizes, as daemon and client read them.

/// Which power of 1024 a suffix such as `k`, `MB` or `GiB` stands for, in any case (docker/go-units,
/// `RAMInBytes`).
pub fn power_of_1024(suffix: &str) -> Option<i32> {
    Some(match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    })
}
