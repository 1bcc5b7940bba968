"""Invented figures of a large corpus with every kind of entry, for tests of the dataset card."""

import math

from pipeline.report.accuracy import Accuracy
from pipeline.report.accuracy import Share as ReviewShare
from pipeline.report.breakdown import Breakdown, Group
from pipeline.report.figures import (
    Bin,
    ErrorGroup,
    Figures,
    LanguageEmotion,
    RunShare,
    ScriptCount,
    Share,
    Totals,
)
from pipeline.report.segment_lists import SegmentList, SegmentRow, WarnedRecording

HOSTILE = '"><script>document.title="pwned"</script><img src=x onerror="document.title=1">'
TURNED = "invoice\u202egnp.wav"  # the right-to-left override makes it end in .png on screen


def segment_row(segment_id: str, language: str, text: str, script: str = "") -> SegmentRow:
    """A segment of 4.1 s. A script that is given does not fit."""
    return SegmentRow(
        segment_id=segment_id,
        recording_id=segment_id[:-7],
        uri=f"s3://corpus/{segment_id[:-7]}.wav",
        start_s=4312.4,
        end_s=4316.5,
        text=text,
        confidence=0.41 if text else None,
        language=language,
        language_probability=0.51,
        language_runner_up="yue",
        language_runner_up_probability=0.47,
        emotion="neutral",
        emotion_probability=0.88,
        emotion_runner_up="unknown",
        emotion_runner_up_probability=0.1,
        events=["bgm", "speech"],
        script=script or "none",
        script_fits=not script,
        channel=0,
    )


LARGE = Figures(
    totals=Totals(
        n_recordings=1_284_503,
        n_errors=3_127,
        n_silent=18_442,
        n_warnings=911,
        audio_s=37_540_000.0,
        labelled_s=29_800_000.0,
        silence_s=7_688_000.0,
        failed_s=52_000.0,
        n_segments=4_310_222,
    ),
    n_with_text=4_102_118,
    median_confidence=0.934,
    n_emotion_unknown=1_310_882,
    nospeech_s=1_440_000.0,
    languages=[
        Share("zh", 2_204_010, 15_200_000.0, 702_113),
        Share("en", 1_322_870, 9_100_000.0, 398_002),
        Share("yue", 301_233, 2_240_000.0, 90_180),
        Share("nospeech", 208_104, 1_440_000.0, 82_020),
        Share("ja", 201_105, 1_310_000.0, 30_110),
        Share("ko", 72_900, 510_000.0, 8_457),
    ],
    emotions=[
        Share("neutral", 2_207_000, 15_700_000.0),
        Share("unknown", 1_310_882, 8_800_000.0),
        Share("happy", 402_000, 2_710_000.0),
        Share("angry", 181_500, 1_220_000.0),
        Share("sad", 170_240, 1_120_000.0),
        Share("surprised", 24_100, 160_000.0),
        Share("fearful", 10_200, 62_000.0),
        Share("disgusted", 4_300, 28_000.0),
    ],
    events=[
        Share("speech", 3_902_000, 27_400_000.0),
        Share("bgm", 380_000, 3_900_000.0),
        Share("laughter", 81_000, 240_000.0),
        Share("applause", 30_500, 121_000.0),
        Share("unknown", 9_000, 60_000.0),
        Share("cough", 5_000, 9_800.0),
        Share("cry", 1_300, 5_100.0),
        Share("sneeze", 420, 600.0),
    ],
    recording_lengths=[
        Bin(low, high, int(n))
        for low, high, n in zip(
            (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
            (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, math.inf),
            (8e3, 31e3, 240e3, 410e3, 330e3, 120e3, 80e3, 30e3, 20e3, 7e3, 4e3, 1200, 176),
            strict=True,
        )
    ],
    segment_lengths=[
        Bin(i, i + 1, round(700_000 * math.exp(-(((i - 4) / 5) ** 2)) + 9_000)) for i in range(31)
    ],
    confidences=[
        Bin(i / 20, (i + 1) / 20, round(1_500_000 * math.exp((i - 19) / 2.6))) for i in range(20)
    ],
    scripts=[
        ScriptCount("zh", "han", 2_190_000, True),
        ScriptCount("zh", "kana", 61, False),
        ScriptCount("zh", "hangul", 204, False),
        ScriptCount("zh", "latin", 9_304, False),
        ScriptCount("zh", "none", 4_441, True),
        ScriptCount("en", "latin", 1_320_020, True),
        ScriptCount("en", "han", 870, False),
        ScriptCount("en", "none", 1_980, True),
        ScriptCount("yue", "han", 301_000, True),
        ScriptCount("yue", "latin", 233, False),
        ScriptCount("ja", "kana", 188_000, True),
        ScriptCount("ja", "han", 13_100, True),
        ScriptCount("ja", "hangul", 5, False),
        ScriptCount("ko", "hangul", 72_900, True),
        ScriptCount("nospeech", "none", 207_000, True),
        ScriptCount("nospeech", "other", 1_104, False),
    ],
    language_emotions=[
        LanguageEmotion(language, emotion, int(n * part), n * part * 7.0)
        for language, n in (("zh", 2_204_010), ("en", 1_322_870), ("yue", 301_233), ("ko", 72_900))
        for emotion, part in (
            *(("neutral", 0.5), ("unknown", 0.3), ("happy", 0.1), ("angry", 0.04), ("sad", 0.04)),
            *(("surprised", 0.01), ("fearful", 0.0025), ("disgusted", 0.001), ("other", 0.0005)),
        )
    ],
    sample=SegmentList(
        "Sample",
        "Drawn by a hash of the segment's id, each language in turn.",
        "",
        [
            segment_row("podcasts/2024/ep_0192-000004", "zh", "今天天气不错，我们出去走走吧。" * 4),
            segment_row("calls/8831-000002", "en", "I will call you again tomorrow, if I may."),
            segment_row("s3://corpus/raw/" + "a-very-long-name/" * 9, "yue", "我哋聽日再講啦"),
            segment_row("calls/8832-000000", "nospeech", ""),
            segment_row(HOSTILE, "ja", HOSTILE),
            segment_row(TURNED, "ko", TURNED),
        ],
    ),
    reviews=[
        SegmentList(
            "Script does not fit",
            "The text is in a script that its language is not written in.",
            "script",
            [
                segment_row(
                    "podcasts/2024/ep_0192-000031", "zh", "안녕하세요 오늘은 날씨가", "hangul"
                ),
                segment_row("calls/8831-000002", "en", "我们明天再说吧", "han"),
                segment_row(HOSTILE, "nospeech", HOSTILE, "other"),
            ],
        ),
        SegmentList(
            "Two likely languages",
            "The second language is nearly as probable as the first.",
            "language",
            [segment_row("calls/8831-000002", "en", "I will call you again tomorrow, if I may.")],
        ),
    ],
    warned=[
        WarnedRecording("calls/7", "s3://corpus/calls/7.wav", 41.5, "decoded 40 s of 41.5 s"),
        WarnedRecording(HOSTILE, TURNED, 4000.0, HOSTILE),
    ],
    breakdowns=[
        Breakdown(
            "speaker",
            [
                Group("agent-01", 400_000, 900, 21_000_000.0, 2_000_000, "zh", 500_000, 0.94),
                Group("agent-02", 300_000, 2_200, 9_000_000.0, 1_000_000, "en", 300_000, 0.91),
                Group(HOSTILE, 90, 0, 900.0, 80, "ko", 0, 0.71),
                Group("", 12, 12, 0.0, 0, "", 0, None),
            ],
            4_211,
        ),
        Breakdown("prefix:1", [Group("calls", 9, 0, 900.0, 80, "ko", 0, 0.71)], 1),
    ],
    errors=[
        ErrorGroup(
            "decode",
            "Truncated",
            1_990,
            [("s3://corpus/raw/a.flac", "0.86 s decoded of 3.25 s that the file declares")],
        ),
        ErrorGroup("decode", "NotAudio", 803, [("s3://corpus/raw/index.html", HOSTILE)]),
        ErrorGroup("decode", "EmptyFile", 310, [(f"/corpus/{TURNED}", "the file has no bytes")]),
        ErrorGroup("manifest", "BadRange", 24, [(HOSTILE, "offset_s is negative: -1.0")]),
    ],
    runs=[
        RunShare("20261122T020000-9f3c21aa", 84_503, 127, 2_300_000.0, "2026-11-22T03:41:12Z"),
        RunShare("20261115T020000-51be0d7e", 1_200_000, 3_000, 35_240_000, "2026-11-15T19:02:40Z"),
    ],
    models=[("iic/SenseVoiceSmall", "833ca2dcfdf8ec91" * 4)],
    accuracy=Accuracy(
        n_random=400,
        n_left_out=12,
        language=ReviewShare(0.985, 0.967, 0.993, 400),
        emotion=ReviewShare(0.71, 0.664, 0.752, 400),
        events=ReviewShare(0.93, 0.901, 0.951, 400),
        whole_text=ReviewShare(0.62, 0.572, 0.666, 400),
        error_rate=ReviewShare(0.0834, 0.071, 0.097, 400),
    ),
)
