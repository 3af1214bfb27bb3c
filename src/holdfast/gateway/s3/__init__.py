"""The S3 protocol over buckets: signatures, XML, listings, objects and multipart uploads.

Path style only, below ``/s3``. What is in a bucket is told by a `BucketIndex`, who may by the
same; bytes go between the client and the region's store and nowhere else.
"""
