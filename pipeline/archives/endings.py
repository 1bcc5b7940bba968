"""The names of audio files and of archives. Opens nothing."""

# Endings of files that our decoders read. .ts is MPEG-TS, and TypeScript too: that becomes a row
# NotAudio. Left out are raw samples (.raw .pcm), which any bytes are, .dat, and playlists.
_ENDINGS = """
    wav wave bwf rf64 w64 wv flac fla mp1 mp2 mp3 mpa mpga m2a ogg oga ogv ogx opus spx m4a m4b
    m4p m4r m4v aac adts adif loas latm mp4 mov qt webm mkv mka mk3d wma wmv asf amr awb 3gp
    3gpp 3g2 3gpp2 aif aiff aifc aiffc afc au snd caf sph nist nst avi flv f4v f4a ts m2ts mts
    m2t mpg mpeg mpe vob ac3 ec3 eac3 ac4 dts dtshd mlp thd truehd ape mac tta tak shn dsf dff
    dsd dss mpc mpp mp+ voc gsm qcp rm ra rmvb mxf nut oma omg aa3 at3 aea sds sf ircam paf fap
    pvf avr svx 8svx 16sv iff vqf vql vqe wve xa xwma mmf ast bfstm bcstm brstm sbc msbc lc3
    ilbc lbc g729 sox rso vag msf xvag svag wsd wtv qoa osq rka apc isma ismv htk mp4a dvf mj2
    mca
"""
AUDIO_SUFFIXES = tuple(f".{ending}" for ending in _ENDINGS.split())
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".zip")
