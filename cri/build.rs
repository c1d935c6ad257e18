//! Messages and services from the files in `proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Each by itself: their packages are apart.
    let files = ["api", "csi", "deviceplugin", "pluginregistration", "podresources"];
    for file in files.map(|name| format!("proto/{name}.proto")) {
        println!("cargo::rerun-if-changed={file}");
        let files = protox::compile([file], ["proto"])?;
        tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    }
    Ok(())
}
