/* A set in memory as the source of a lazy one: CIFAR at the 224 pixels of an ImageNet model, Fashion-MNIST as
 * RGB. The pixels stay where they are; what is resized is made when a batch asks for it. */

#include "io/dataset_internal.h"
#include "io/image_file.h"

static esp_status memory_read(void *user, int64_t index, const esp_image_wish *wish, esp_image *image,
                              esp_error *err)
{
    const esp_dataset *set = user;
    int height = esp_dataset_height(set), width = esp_dataset_width(set),
        channels = esp_dataset_channels(set);
    int64_t plane = (int64_t)height * width;
    const uint8_t *planes = esp_dataset_pixels(set, index);
    int most = channels > wish->channels ? channels : wish->channels;
    uint8_t *pixels = esp_buffer_need(&image->room, (size_t)(plane * most));

    if (!pixels)
        return esp_fail_memory(err, "an image", (size_t)(plane * most));
    for (int64_t i = 0; i < plane; i++)
        for (int c = 0; c < most; c++) /* one channel becomes several alike */
            pixels[i * most + c] = planes[(c < channels ? c : 0) * plane + i];
    if (channels == 3 && wish->channels == 1)
        esp_grey_from_rgb(pixels, plane, pixels);
    image->width = image->full_width = width;
    image->height = image->full_height = height;
    image->channels = wish->channels;
    image->pixels = pixels;
    image->values = NULL;
    return ESP_OK;
}

static void memory_free(void *user)
{
    esp_dataset_unref(user);
}

esp_status esp_dataset_resize(const esp_dataset_query *query, esp_dataset **set, esp_error *err)
{
    static const esp_image_source_ops ops = {memory_read, memory_free};
    esp_dataset *source = *set, *resized = NULL;
    esp_lazy_images images = {.ops = &ops,
                              .take_user = esp_dataset_ref(source),
                              .sizes = query->sizes,
                              .cache_bytes = (size_t)query->cache_mib << 20};
    int classes = esp_dataset_class_count(source);

    images.sizes.own_channels = esp_dataset_channels(source);
    images.sizes.own_height = esp_dataset_height(source);
    images.sizes.own_width = esp_dataset_width(source);
    esp_status status = esp_dataset_new_lazy(esp_dataset_name(source), esp_dataset_note(source),
                                             esp_dataset_count(source), classes, &images, &resized, err);
    for (int c = 0; status == ESP_OK && c < classes; c++)
        status = esp_dataset_set_class_name(resized, c, esp_dataset_class_name(source, c), err);
    if (status != ESP_OK) {
        esp_dataset_unref(resized);
        return status;
    }
    for (int64_t i = 0; i < esp_dataset_count(source); i++)
        esp_dataset_set_label(resized, i, esp_dataset_label(source, i));
    esp_dataset_unref(source);
    *set = resized;
    return ESP_OK;
}
