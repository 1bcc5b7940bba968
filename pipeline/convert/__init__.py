"""SenseVoice in files that others load: ONNX, TorchScript, torch.export. Needs no FunASR."""
