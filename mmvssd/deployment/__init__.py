"""Models outside of the hosts: export to ONNX, exported programs and OpenVINO, and comparison."""
