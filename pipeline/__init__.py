"""Label speech corpora with SenseVoice on Ray Data: recordings in, committed parquet tables out.

The rooms, in their order; each may import those above it (see README.md in this folder):

    schema, config, errors, arrow   what every room may import
    storage        read any URI safely; write objects that are complete or absent
    archives       recordings inside tar, zip and parquet files
    manifest       any list of recordings to checked rows with unique ids
    audio          the bytes of a file to windows of 16 kHz mono samples
    models         waveforms to speech segments, tokens and probabilities
    planning       what is still to do, and what it will cost
    tables         commit finished rows exactly once; read them as one snapshot
    stages         the four functions that a row passes
    flow           the stages on Ray Data, and workers that die
    runs           one run, from the configuration to committed tables
    maintenance    keep an output small, complete and verifiable
    report         the dataset card of a snapshot
    export         the segments of a snapshot in formats that other tools read
    evaluation     score the labels of a snapshot
    benchmark      what labelling costs
    console        what the commands share
"""

__version__ = "0.1.0"
