"""Label speech corpora with SenseVoice on Ray Data: recordings in, committed parquet tables out.

The walk, floor by floor (imports point down):

    schema    what a row is: Arrow schemas, frozen dataclasses, the sample rate
    config    one YAML file per run, checked before anything starts
    storage, manifest, audio, features, segmenting, batching, decoding, tables   pure parts
    encoder, sensevoice, fsmn_vad, vad_models    torch, imported when a model is built
    stages, model_stages    what Ray calls; an exception becomes a column there and nowhere else
    flow      the chain and its resources; it, watch, alone and telemetry know ray
    run       one run, from the configuration to committed tables
"""

__version__ = "0.1.0"
