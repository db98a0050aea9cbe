/* A model and a dataset on disk, small enough for tests of sessions and of the workbench to run in moments.
 */
#ifndef ESP_TESTS_TINY_STUDY_H
#define ESP_TESTS_TINY_STUDY_H

#include "study/session.h"
#include "unit/train/train_fixtures.h"

#define TINY_TRAIN_IMAGES 96
#define TINY_TEST_IMAGES  60

/* Writes directory/tiny.onnx and the four IDX files in directory/data; for esp_dataset_open as
 * "idx:directory/data". */
void tiny_study_write(const char *directory);

/* A settled session on what tiny_study_write left in `directory`; `study` may be NULL. */
esp_session *tiny_session(const char *directory, const char *study, bool opens_model, bool opens_data);

/* A plan edit, settled. */
void tiny_edit(esp_session *session, esp_plan_edit_kind kind, int layer, double amount);

/* The plan at this ratio, cut, settled. */
void tiny_cut(esp_session *session, double ratio);

/* The usual training of so many epochs, in batches that the tiny data have several of. */
esp_finetune tiny_finetune(double epochs, double lr);

/* Reads events until the session is idle, waiting in poll() for them; fails the test when a job fails. The
 * last failure that `allows_failure` let pass is left in `err` (which may be NULL otherwise). Returns how
 * many jobs were cancelled. */
int tiny_study_settle(esp_session *session, bool allows_failure, esp_error *err);

#endif
