/* Made by tests/oracle/calibration_reference.py with PyTorch 1.13.0a0. */
#ifndef ESP_TESTS_CALIBRATION_REFERENCE_H
#define ESP_TESTS_CALIBRATION_REFERENCE_H

/* per filter */
static const double activation_conv1[] = {0.4899025597, 0.2851160592, 0.1818002432, 0.144866056};
static const double activation_conv2[] = {0.4127393626, 0.5689335237, 0.7029200211, 0.6190070233};
static const double activation_conv3[] = {0.09301449514, 0.5768761769, 1.296465226,
                                          1.530892541,   1.044515151,  0.4110883706};
static const double activation_linear[] = {2.61594868, 0.7444792801, 2.97195483};
static const double apoz_conv1[] = {0.5555555556, 0.4055555556, 0.3, 0.2444444444};
static const double apoz_conv2[] = {0.7277777778, 0.3388888889, 0.1333333333, 0.1833333333};
static const double apoz_conv3[] = {0.2444444444, 0.5333333333, 0.9111111111, 1, 0.9111111111, 0.5777777778};
static const double taylor_conv1[] = {1.285590706, 0.2077106364, 0.2653123684, 0.3928787248};
static const double taylor_conv2[] = {0.3545291537, 0.2313972789, 0.1245121282, 0.04962048392};
static const double taylor_conv3[] = {0.05032507838, 0.2519029691, 0.3447689437,
                                      0.6836652197,  0.6147306171, 0.301249319};
static const double taylor_linear[] = {1.467177227, 0.2896642374, 0.6819795745};
static const double taylor_weight_conv1[] = {5.775977982, 0.218349763, 0.4513162776, 0.5360431963};
static const double taylor_weight_conv2[] = {0.2004077302, 0.1131183714, 0.0378526557, 0.0388674608};
static const double taylor_weight_conv3[] = {0.008805883926, 0.1205095412, 0.4362698303,
                                             0.629457052,    0.2983169446, 0.07554607714};
static const double taylor_weight_linear[] = {2.708923178, 0.0835903502, 2.536260105};

/* batch-norm statistics: all five images as one batch by BatchNorm2d with momentum=None; the first two,
 * then three, pooled */
static const double whole_norm1_mean[] = {0.5248231946, 0.2231007197, -0.1099266346, -0.4275293835};
static const double whole_norm1_variance[] = {2.024764414, 2.11186042, 2.141493781, 2.097615779};
static const double whole_norm3_mean[] = {-0.5690792141, -0.2749681548, 0.07160521732,
                                          0.3164081204,  0.3688499724,  0.245361468};
static const double whole_norm3_variance[] = {0.1806493813, 0.2227098379, 0.2056048988,
                                              0.1613722795, 0.1728601509, 0.218551581};
static const double pooled_norm1_mean[] = {0.5248231946, 0.2231007197, -0.1099266346, -0.4275293835};
static const double pooled_norm1_variance[] = {2.024764414, 2.11186042, 2.141493781, 2.097615779};
static const double pooled_norm3_mean[] = {-0.5731897334, -0.2729100636, 0.07871729829,
                                           0.3247224321,  0.3738636523,  0.2443592086};
static const double pooled_norm3_variance[] = {0.1867602901, 0.2171710149, 0.193896401,
                                               0.1605300317, 0.179567476,  0.2153513763};

#endif
