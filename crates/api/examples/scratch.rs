fn main() {
    let r = skiff_api::discovery_documents::built_in();
    let v = serde_json::json!({"/api": skiff_api::discovery_documents::aggregated(&r, true), "/apis": skiff_api::discovery_documents::aggregated(&r, false)});
    let reference: serde_json::Value = serde_json::from_slice(
        &std::fs::read("/work/shared/reference/aggregated-discovery.json").unwrap(),
    )
    .unwrap();
    println!("equal: {}", v == reference);
    if v != reference {
        std::fs::write(
            "/tmp/apicore/ours.json",
            serde_json::to_vec_pretty(&v).unwrap(),
        )
        .unwrap();
        std::fs::write(
            "/tmp/apicore/ref.json",
            serde_json::to_vec_pretty(&reference).unwrap(),
        )
        .unwrap();
    }
}
