/* A picture of a session: everything a reader draws, immutable and reference-counted. The worker makes one
 * after every change; a reader holds the one it draws for as long as it likes. */
#ifndef ESP_STUDY_SNAPSHOT_H
#define ESP_STUDY_SNAPSHOT_H

#include "prune/criteria.h"
#include "prune/ledger.h"
#include "prune/preview.h"
#include "study/findings.h"
#include "study/finetune.h"
#include "study/scan.h"
#include "study/version.h"

/* A preview that several snapshots hold. */
typedef struct esp_preview_box {
    esp_shared shared;
    esp_preview *preview;
} esp_preview_box;

esp_status esp_preview_box_new(esp_preview *take_preview, esp_preview_box **out, esp_error *err);

/* One layer looked at closely: depends on the version, not on the plan. */
typedef struct esp_layer_detail {
    esp_shared shared;
    int version, layer, criterion;
    int set; /* coupled set of its filters, as in esp_wsp_pair; -1 when nothing moves with them */
    int64_t filters, channels;
    double *scores;    /* [filters] by the criterion */
    int32_t *order;    /* [filters] by ascending score; ties by index */
    float *importance; /* [filters, channels] */
    float importance_max;
} esp_layer_detail;

/* Importance of a layer of the preview's model, and its scores: `scores` are copied, or computed when it is
 * NULL (by criteria that need no data). */
esp_status esp_layer_detail_new(const esp_compute *compute, const esp_preview *preview, int version,
                                int layer, int criterion, const double *scores, esp_layer_detail **out,
                                esp_error *err);

/* Why layers do not get what the plan of `box` asks. */
typedef struct esp_reasons {
    esp_shared shared;
    const esp_preview_box *box; /* own reference */
    esp_ledger ledger;
} esp_reasons;

esp_status esp_reasons_new(const esp_preview_box *box, esp_reasons **out, esp_error *err);

/* Why one filter stays or goes under the plan of `box`. */
typedef struct esp_explanation {
    esp_shared shared;
    const esp_preview_box *box; /* own reference */
    int layer;
    int64_t channel;
    char why[192]; /* "goes: among the lowest of its coupled set" */
    char *text;    /* all of it, lines */
} esp_explanation;

esp_status esp_explanation_new(const esp_preview_box *box, int layer, int64_t channel, esp_explanation **out,
                               esp_error *err);

/* One measured moment of a training. */
typedef struct esp_training_point {
    double epoch; /* fractional while an epoch runs */
    double loss;  /* training: of an epoch that ended its average, else a moving average; NaN when unknown */
    double top1, validation_loss; /* validation, percent; NaN between validations */
    double train_top1;            /* as `loss` */
    double lr;
    double images_per_s;
    double eta_s; /* to the end of the training; negative when unknown */
    bool is_validated, is_best;
} esp_training_point;

typedef struct esp_training_log {
    esp_shared shared;
    bool is_running;
    bool is_on_test; /* validated on the test images */
    int from_version;
    double epochs;
    double resumed_at; /* epochs that were done before it was gone on with; 0: begun here */
    int count;
    esp_training_point *points;
} esp_training_log;

/* An empty log of a running training; a copy with one point more; a copy that is over. */
esp_status esp_training_log_new(int from_version, double epochs, esp_training_log **out, esp_error *err);
esp_status esp_training_log_with(const esp_training_log *log, const esp_training_point *point,
                                 esp_training_log **out, esp_error *err);
esp_status esp_training_log_stopped(const esp_training_log *log, esp_training_log **out, esp_error *err);

/* The points as JSON, and an empty log's filled from it. */
json_t *esp_training_log_to_json(const esp_training_log *log); /* new reference; NULL: memory is out */
esp_status esp_training_log_fill(esp_training_log *log, const json_t *json, esp_error *err);

/* A training that was stopped, or cut off by a crash, and can be gone on with. */
typedef struct esp_unfinished {
    int version; /* what it trains; 0: there is none */
    double position, epochs;
} esp_unfinished;

/* The data of a session, for display. */
typedef struct esp_data_state {
    bool is_open;
    char name[96], note[128];
    int64_t train_count, test_count; /* 0: not read yet */
    int64_t validation_count;        /* of the data's own validation images; 0: they have none */
} esp_data_state;

/* Accuracy of the present plan, masks applied. */
typedef struct esp_estimate {
    int64_t images; /* 0: unknown */
    bool is_full;
    double top1, top1_error;
} esp_estimate;

typedef struct esp_snapshot {
    esp_shared shared;
    uint64_t serial;                    /* grows with every snapshot of a session */
    const esp_versions *versions;       /* NULL until a model is open */
    int current;                        /* version id; 0 until a model is open */
    int undo_to, redo_to;               /* version ids; 0: not possible */
    bool can_take_back, can_go_forward; /* the last change of the plan */
    const esp_preview_box
        *box; /* the plan resolved against the current version; NULL until a model is open */
    const esp_layer_detail *detail;     /* the layer last selected; NULL until one was */
    const esp_reasons *reasons;         /* a moment after the preview they are about; NULL before the first */
    const esp_explanation *explanation; /* of the filter last asked about, NULL until one was */
    const esp_training_log *training;   /* the last training; NULL when there was none */
    const esp_scan *scan;               /* the last sensitivity scan; NULL when there was none */
    const esp_findings *findings;       /* the last page of something found out; NULL when there was none */
    uint64_t findings_serial;           /* grows with every such page */
    esp_unfinished unfinished;
    esp_finetune finetune; /* options of the last training of the study, else the usual ones */
    esp_estimate estimate;
    esp_data_state data;
    bool has_study;
    bool keeps_training; /* a training runs that writes checkpoints: it can be gone on with */
    bool hides_timings;  /* readers print no times: tests and recorded demonstrations */
    int thread_count;
    uint64_t message_serial; /* grows with every message */
    char message[192];
} esp_snapshot;

/* The parts, NULL-safe. */
static inline const esp_preview *esp_snapshot_preview(const esp_snapshot *snapshot)
{
    return snapshot && snapshot->box ? snapshot->box->preview : NULL;
}
const esp_study_version *esp_snapshot_current(const esp_snapshot *snapshot);
const esp_study_version *esp_snapshot_baseline(const esp_snapshot *snapshot);

/* True when the present plan changes something. */
bool esp_snapshot_has_cut(const esp_snapshot *snapshot);

/* A heap copy of `fields` with references of its own. */
esp_status esp_snapshot_new(const esp_snapshot *fields, esp_snapshot **out, esp_error *err);

#endif
