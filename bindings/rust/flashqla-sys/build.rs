// Links libflashqla: the shared one, or with FLASHQLA_STATIC=1 the archive, from FLASHQLA_LIB_DIR or where the linker looks by itself.
fn main() {
    println!("cargo:rerun-if-env-changed=FLASHQLA_LIB_DIR");
    println!("cargo:rerun-if-env-changed=FLASHQLA_STATIC");
    if let Ok(folder) = std::env::var("FLASHQLA_LIB_DIR") {
        println!("cargo:rustc-link-search=native={}", folder);
    }
    if std::env::var("FLASHQLA_STATIC").map_or(false, |v| v == "1") {
        println!("cargo:rustc-link-lib=static=flashqla");
        for library in ["m", "pthread", "dl"] {
            println!("cargo:rustc-link-lib={}", library);
        }
    } else {
        println!("cargo:rustc-link-lib=flashqla");
    }
}
